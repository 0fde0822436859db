/* Signed distance to the fence: the twin of `Fence.margin` in sim2sky/runtime/geofence.py. */
#include "laws.h"

#include <math.h>

double s2s_fence_margin(const s2s_fence *f, double north_m, double east_m)
{
    double smallest = f->radius_m - s2s_hypot(north_m, east_m);
    const s2s_edge *e = f->edges;
    uint16_t polygon, edge;

    for (polygon = 0; polygon < f->n_polygons; ++polygon) {
        double nearest = INFINITY, distance;
        bool inside = false;

        for (edge = 0; edge < f->n_edges[polygon]; ++edge, ++e) {
            double pn = north_m - e->north, pe = east_m - e->east;
            double along = (pn * e->d_north + pe * e->d_east) / e->length2;
            double rn, re;

            along = along < 0.0 ? 0.0 : s2s_min(along, 1.0);
            rn = pn - along * e->d_north;
            re = pe - along * e->d_east;
            nearest = s2s_min(nearest, rn * rn + re * re);
            /* Even-odd rule: count the edges that a ray to the east crosses. */
            if ((pn < 0.0) != (pn < e->d_north) && pe < pn / e->d_north * e->d_east)
                inside = !inside;
        }
        distance = sqrt(nearest);
        smallest = s2s_min(smallest, inside ? distance : -distance);
    }
    return smallest;
}
