/* Attitude and position as they are sent, read: see geodetic.h. */
#include "geodetic.h"

#include <math.h>

#include "real.h"

s2s_geodetic s2s_geodetic_at(double latitude_deg, double longitude_deg, double altitude_m)
{
    /* Radii of curvature after Farrell, Aided Navigation, eq. 2.6-2.7. */
    const double semi_major = 6378137.0, eccentricity2 = 6.69437999014e-3, radians = S2S_PI / 180.0;
    const double latitude = latitude_deg * radians, sine = s2s_sin(latitude);
    const double w = sqrt(1.0 - eccentricity2 * (sine * sine));
    const double meridian = semi_major * (1.0 - eccentricity2) / (w * w * w), normal = semi_major / w;
    const s2s_geodetic home = {
        latitude_deg, longitude_deg, altitude_m, meridian * radians, normal * s2s_cos(latitude) * radians,
    };
    return home;
}

void s2s_geodetic_to_metres(const s2s_geodetic *home, int32_t latitude_e7, int32_t longitude_e7, double *north_m,
                            double *east_m)
{
    *north_m = (latitude_e7 * 1e-7 - home->latitude_deg) * home->metres_north;
    *east_m = (longitude_e7 * 1e-7 - home->longitude_deg) * home->metres_east;
}

void s2s_quaternion_to_euler(const double q[4], double *roll, double *pitch, double *yaw)
{
    const double norm = sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
    double w, x, y, z;
    *roll = *pitch = *yaw = (double)NAN;
    if (!(isfinite(norm) && norm > 0.5)) {
        return;
    }
    w = q[0] / norm;
    x = q[1] / norm;
    y = q[2] / norm;
    z = q[3] / norm;
    *roll = s2s_atan2(2.0 * (w * x + y * z), 1.0 - 2.0 * (x * x + y * y));
    *pitch = s2s_asin(s2s_min(s2s_max(2.0 * (w * y - z * x), -1.0), 1.0));
    *yaw = s2s_atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z));
}

double s2s_nearest(double x)
{
    return x < 0.0 ? x - 4503599627370496.0 + 4503599627370496.0 : x + 4503599627370496.0 - 4503599627370496.0;
}
