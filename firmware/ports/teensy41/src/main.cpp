// Teensy 4.1: USB serial and four servo outputs around flight.h. Nothing is decided here.
#include <Arduino.h>

extern "C" {
#include "flight.h"
}

static const uint8_t SERVO_PINS[S2S_CHANNELS] = {2, 3, 4, 5};  // aileron, elevator, rudder, throttle
static const float SERVO_HZ = 50.0f;
static const int SERVO_BITS = 16;

static flight aircraft;

// Since power-on, ns. micros() starts anew every 71 minutes.
static int64_t now_ns() {
    static uint32_t last = 0;
    static int64_t total_us = 0;
    const uint32_t now = micros();
    total_us += (uint32_t)(now - last);
    last = now;
    return total_us * 1000;
}

static void write_servos() {
    uint16_t pulses[S2S_CHANNELS];
    flight_pulses_us(&aircraft, pulses);
    for (int i = 0; i < S2S_CHANNELS; i++) {
        analogWrite(SERVO_PINS[i], (int)((float)pulses[i] * 1e-6f * SERVO_HZ * 65536.0f));
    }
}

static void send(const uint8_t *frame, size_t n) {
    if (n > 0 && (size_t)Serial.availableForWrite() >= n) {  // never wait for a host that does not read
        Serial.write(frame, n);
        Serial.send_now();
    }
}

// On in flight, quick where the self-test failed, slow while waiting.
static void show(int64_t now) {
    const int64_t half_ns = aircraft.phase == FLIGHT_REFUSED ? 100000000 : 500000000;
    digitalWrite(LED_BUILTIN, aircraft.phase == FLIGHT_FLYING || now / half_ns % 2 != 0);
}

void setup() {
    analogWriteResolution(SERVO_BITS);
    for (int i = 0; i < S2S_CHANNELS; i++) {
        analogWriteFrequency(SERVO_PINS[i], SERVO_HZ);
    }
    pinMode(LED_BUILTIN, OUTPUT);
    Serial.begin(115200);  // USB: the rate means nothing
    flight_init(&aircraft, &s2s_config);
    write_servos();
}

void loop() {
    uint8_t bytes[64], out[FLIGHT_MAX_FRAME];
    size_t n = 0;
    while (n < sizeof bytes && Serial.available() > 0) {
        bytes[n++] = (uint8_t)Serial.read();
    }
    for (const uint8_t *data = bytes; n > 0;) {
        send(out, flight_take(&aircraft, &data, &n, now_ns(), out));
    }
    const int64_t now = now_ns();
    if (const size_t size = flight_tick(&aircraft, now, out)) {
        write_servos();
        send(out, size);
    }
    show(now);
}
