/* The calls of the Teensy core that the port's glue makes, declared as its headers declare them: enough to compile
 * against, nothing to run. */
#ifndef DECLARED_ARDUINO_H
#define DECLARED_ARDUINO_H

#include <stddef.h>
#include <stdint.h>

#define OUTPUT 1
#define LED_BUILTIN 13

extern "C" {
uint32_t micros(void);
void pinMode(uint8_t pin, uint8_t mode);
void digitalWrite(uint8_t pin, uint8_t value);
void analogWrite(uint8_t pin, int value);
uint32_t analogWriteResolution(uint32_t bits);
void analogWriteFrequency(uint8_t pin, float frequency);
}

class usb_serial_class {
public:
    void begin(long baud);
    int available();
    int read();
    int availableForWrite();
    size_t write(const uint8_t *buffer, size_t size);
    void send_now();
};
extern usb_serial_class Serial;

void setup();
void loop();

#endif
