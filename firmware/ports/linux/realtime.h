/* Real-time scheduling where the system allows it: the twin of sim2sky/runtime/realtime.py. */
#ifndef SIM2SKY_REALTIME_H
#define SIM2SKY_REALTIME_H

void enter_realtime(void); /* says on stderr what was granted, or why not and what to do about it */

#endif
