/* Attitude and position as they are sent, read: the C twin of sim2sky/runtime/frames.py, equal to the last bit. */
#ifndef SIM2SKY_GEODETIC_H
#define SIM2SKY_GEODETIC_H

#include <stdint.h>

/* Home, and metres per degree there: a plane tangent to the WGS-84 ellipsoid. */
typedef struct {
    double latitude_deg, longitude_deg, altitude_m, metres_north, metres_east;
} s2s_geodetic;

s2s_geodetic s2s_geodetic_at(double latitude_deg, double longitude_deg, double altitude_m);
/* North and east of home, m, of a position in 1e-7 degrees. */
void s2s_geodetic_to_metres(const s2s_geodetic *home, int32_t latitude_e7, int32_t longitude_e7, double *north_m,
                            double *east_m);

/* Roll, pitch, yaw of the rotation (w, x, y, z) from NED to body; NaN where it is no rotation. */
void s2s_quaternion_to_euler(const double q[4], double *roll, double *pitch, double *yaw);

double s2s_nearest(double x); /* to the nearest integer, ties to the even one; |x| < 2^51 */

#endif
