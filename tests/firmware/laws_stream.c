/* Every law over the stream: as a library for the comparison with Python, row by row; as a program for the hashes. */
#include "laws.h"
#include "port.h"
#include "stream.h"

#include <math.h>

enum {
    AUTOPILOT, FENCE, ALTITUDE, RANGE, TURN_SIDE, HEADING, HOME, LOITER, CIRCLE, WIND, LAWS,
    MAX_INPUTS = 64, MAX_OUTPUTS = 4, CORNERS = 6, POLYGONS = 2, GAINS = 28, ESCAPES = 4
};

#ifndef LAWS_ROWS
#define LAWS_ROWS 100000 /* as many as Python answers in the tests */
#endif

/* As of limits that could be flown; the comparison with Python puts Python's own in their place. */
static s2s_escape escapes[ESCAPES] = {
    {0.61, 0.7, 1.0, 0.67, 0.82, 0.3, 0.1, 16.5, 3.0, 8.0, 400.0},
    {0.87, 1.19, 0.4, 0.37, 0.61, 0.1, 0.05, 1.0, 6.0, 0.0, 0.0},
    {0.3, 0.31, 2.5, 0.85, 0.92, 1.2, 0.4, 13.0, 1.0, 15.0, 90.0},
    {1.3, 3.6, 0.001, 0.0, 0.0, 0.0, 0.0, 30.0, 12.0, 3.0, 1e4}
};

int laws_inputs(int law, uint64_t seed, long n, double *rows); /* n rows; returns their length */
int laws_answers(int law, long n, const double *rows, double *out); /* returns the number of answers a row */
void laws_escape(int index, const double *constants);
int main(void);

static bool hostile_episode;

static double plausible(stream *s, double low, double high)
{
    return hostile_episode && stream_below(s, 8) == 0 ? stream_hostile(s) : stream_between(s, low, high);
}

static double *put_sample(stream *s, double *row)
{
    static const double span[S2S_SAMPLE_VALUES] = {1.5, 1.0, 3.2, 4.0, 3.0, 3.0, 0.0, 300.0, 12.0, 400.0, 400.0, 35.0,
                                                   35.0};
    bool calm = stream_below(s, 2) == 0;
    int i;
    for (i = 0; i < S2S_SAMPLE_VALUES; ++i)
        *row++ = i == S2S_AIRSPEED ? plausible(s, -1.0, 45.0) : plausible(s, calm ? -0.2 * span[i] : -span[i], span[i]);
    return row;
}

static double *put_fence(stream *s, double *row)
{
    int polygon, corner;
    *row++ = stream_below(s, 3) == 0 ? (double)INFINITY : plausible(s, 50.0, 600.0);
    for (polygon = 0; polygon < POLYGONS; ++polygon) {
        uint64_t corners = stream_below(s, 2) == 0 ? 0 : 3 + stream_below(s, CORNERS - 2);
        *row++ = (double)corners;
        for (corner = 0; corner < CORNERS; ++corner) {
            row[0] = plausible(s, -500.0, 500.0);
            row[1] = plausible(s, -500.0, 500.0);
            if (corner > 0 && stream_below(s, 5) == 0)
                row[0] = row[-2]; /* an edge to the east, or two corners in one place */
            if (corner > 0 && stream_below(s, 8) == 0)
                row[1] = row[-1];
            row += 2;
        }
    }
    return row;
}

static double *put_wind(stream *s, double *row)
{
    *row++ = stream_below(s, 3) != 0;
    *row++ = plausible(s, -15.0, 15.0);
    *row++ = plausible(s, -15.0, 15.0);
    return row;
}

static double *put_gains(stream *s, double *row)
{
    static const double usual[GAINS] = {0.0, 0.6, 0.05, 18.0, 0.4, 3.0, 0.5, 2.0, 0.8, 0.6, 0.4, 0.3, 1.2, 0.7, 0.35,
                                        0.5, 0.06, 0.9, 0.6, 0.12, 0.08, 0.1, 1.0, 0.08, 0.04, 0.2, 0.2, 1.0};
    int i;
    for (i = 0; i < GAINS; ++i)
        *row++ = usual[i] * stream_between(s, 0.5, 2.0);
    return row;
}

/* One row. `previous` is the row before it, whose gains an episode keeps. */
static double *put_row(int law, stream *s, double *row, const double *previous)
{
    bool begin = previous == NULL || stream_below(s, 24) == 0;
    int i;

    if (begin)
        hostile_episode = stream_below(s, 3) == 0;
    *row++ = begin;
    *row++ = (double)stream_below(s, ESCAPES);
    switch (law) {
    case AUTOPILOT:
        if (begin) {
            *row++ = stream_between(s, 0.005, 0.1);
            row = put_gains(s, row);
        } else {
            for (i = 2; i < 3 + GAINS; ++i)
                *row++ = previous[i];
        }
        row = put_sample(s, row);
        *row++ = plausible(s, 0.0, 300.0);
        *row++ = plausible(s, 10.0, 40.0);
        *row++ = plausible(s, -7.0, 7.0);
        return row;
    case FENCE:
        row = put_fence(s, row);
        break;
    case ALTITUDE:
    case CIRCLE:
        return put_sample(s, row);
    case RANGE:
        row = put_sample(s, put_fence(s, row));
        *row++ = plausible(s, -400.0, 400.0);
        *row++ = plausible(s, -400.0, 400.0);
        *row++ = plausible(s, 0.0, 1.0);
        row = put_wind(s, row);
        *row++ = stream_below(s, 4) == 0 ? (double)INFINITY : plausible(s, 0.0, 200.0);
        return row;
    case TURN_SIDE:
        *row++ = plausible(s, -3.2, 3.2);
        *row++ = plausible(s, -0.5, 0.5);
        *row++ = (double)stream_below(s, 3) - 1.0;
        return row;
    case HEADING:
        *row++ = plausible(s, -4.0, 4.0);
        *row++ = plausible(s, 0.0, 30.0);
        return put_wind(s, row);
    case WIND:
        *row++ = plausible(s, 0.005, 6.0);
        *row++ = plausible(s, 0.0, 0.5);
        return put_sample(s, row);
    default: /* HOME, LOITER: side or airspeed */
        *row++ = law == HOME ? (double)stream_below(s, 3) - 1.0 : plausible(s, 5.0, 40.0);
        row = put_wind(s, put_sample(s, row));
        break;
    }
    *row++ = plausible(s, -400.0, 400.0);
    *row++ = plausible(s, -400.0, 400.0);
    return row;
}

static const double *get_sample(const double *row, s2s_sample *sample)
{
    sample->time_ns = 0;
    memcpy(sample->value, row, sizeof sample->value);
    return row + S2S_SAMPLE_VALUES;
}

static const double *get_wind(const double *row, s2s_wind *wind)
{
    wind->known = row[0] != 0.0;
    wind->north = row[1];
    wind->east = row[2];
    return row + 3;
}

typedef struct {
    s2s_fence fence;
    uint16_t n_edges[POLYGONS];
    s2s_edge edges[POLYGONS * CORNERS];
} built_fence;

static const double *get_fence(const double *row, built_fence *f)
{
    s2s_edge *edge = f->edges;
    int polygon;

    f->fence.radius_m = *row++;
    f->fence.n_polygons = 0;
    f->fence.n_edges = f->n_edges;
    f->fence.edges = f->edges;
    for (polygon = 0; polygon < POLYGONS; ++polygon) {
        int corners = (int)*row++, i;
        if (corners > 0)
            f->n_edges[f->fence.n_polygons++] = (uint16_t)corners;
        for (i = 0; i < corners; ++i, ++edge) {
            const double *a = row + 2 * i, *b = row + 2 * ((i + 1) % corners);
            edge->north = a[0];
            edge->east = a[1];
            edge->d_north = b[0] - a[0];
            edge->d_east = b[1] - a[1];
            edge->length2 = s2s_max(edge->d_north * edge->d_north + edge->d_east * edge->d_east, 1e-9);
        }
        row += 2 * CORNERS;
    }
    return row;
}

/* What a law remembers from row to row. */
typedef struct {
    s2s_gains gains;
    s2s_autopilot autopilot;
    s2s_guidance guidance;
    s2s_wind_estimate wind;
} memory;

static int answer(int law, memory *m, const double *row, double *out)
{
    bool begin = row[0] != 0.0;
    const s2s_escape *escape = &escapes[(int)row[1]];
    s2s_sample sample;
    s2s_setpoint setpoint = {{0.0}};
    s2s_wind wind;
    s2s_way_home way;
    built_fence fence;

    row += 2;
    switch (law) {
    case AUTOPILOT:
        if (begin) {
            memcpy(&m->gains, row + 1, sizeof m->gains);
            s2s_autopilot_init(&m->autopilot, &m->gains, row[0]);
        }
        row = get_sample(row + 1 + GAINS, &sample);
        memcpy(setpoint.value, row, 3 * sizeof *row);
        memcpy(out, s2s_autopilot_command(&m->autopilot, &sample, &setpoint).channel, 4 * sizeof *out);
        return 4;
    case FENCE:
        row = get_fence(row, &fence);
        out[0] = s2s_fence_margin(&fence.fence, row[0], row[1]);
        return 1;
    case ALTITUDE:
        get_sample(row, &sample);
        s2s_escape_altitude_bounds(escape, &sample, &out[0], &out[1]);
        return 2;
    case RANGE:
        row = get_sample(get_fence(row, &fence), &sample);
        get_wind(row + 3, &wind);
        way = s2s_escape_range_margin(escape, &fence.fence, &sample, row[0], row[1], row[2], wind, row[6]);
        out[0] = way.margin_m;
        out[1] = way.side;
        return 2;
    case TURN_SIDE:
        out[0] = s2s_turn_side(row[0], row[1], row[2]);
        return 1;
    case HEADING:
        get_wind(row + 2, &wind);
        out[0] = s2s_heading_for(row[0], row[1], wind);
        return 1;
    case HOME:
        if (begin)
            m->guidance.side = row[0];
        row = get_wind(get_sample(row + 1, &sample), &wind);
        out[0] = s2s_guidance_home(&m->guidance, &sample, row[0], row[1], wind);
        return 1;
    case LOITER: {
        double airspeed = row[0];
        row = get_wind(get_sample(row + 1, &sample), &wind);
        out[0] = s2s_guidance_loiter(escape, &sample, row[0], row[1], wind, airspeed);
        out[1] = s2s_loiter_radius(escape, airspeed);
        return 2;
    }
    case CIRCLE:
        get_sample(row, &sample);
        out[0] = s2s_guidance_circle(&sample);
        return 1;
    default: /* WIND */
        if (begin) {
            m->wind.share = s2s_min(row[0] / 4.0, 1.0);
            m->wind.delay_s = row[1];
            m->wind.wind.known = false;
        }
        get_sample(row + 2, &sample);
        s2s_wind_update(&m->wind, &sample);
        out[0] = m->wind.wind.known;
        out[1] = m->wind.wind.known ? m->wind.wind.north : 0.0;
        out[2] = m->wind.wind.known ? m->wind.wind.east : 0.0;
        return 3;
    }
}

void laws_escape(int index, const double *constants)
{
    memcpy(&escapes[index], constants, sizeof escapes[index]);
}

int laws_inputs(int law, uint64_t seed, long n, double *rows)
{
    stream s = {seed};
    const double *previous = NULL;
    int length = 0;
    long i;
    for (i = 0; i < n; ++i) {
        length = (int)(put_row(law, &s, rows, previous) - rows);
        previous = rows;
        rows += length;
    }
    return length;
}

int laws_answers(int law, long n, const double *rows, double *out)
{
    double row[MAX_INPUTS];
    stream s = {1};
    int length = (int)(put_row(law, &s, row, NULL) - row), answers = 0;
    memory m;
    long i;
    for (i = 0; i < n; ++i, rows += length, out += answers)
        answers = answer(law, &m, rows, out);
    return answers;
}

int main(void)
{
    int law;
    for (law = 0; law < LAWS; ++law) {
        double rows[2][MAX_INPUTS], out[MAX_OUTPUTS];
        stream s = {(uint64_t)law + 1};
        uint64_t hash = STREAM_HASH;
        memory m;
        char text[18];
        long i;
        for (i = 0; i < LAWS_ROWS; ++i) {
            int answers, k;
            put_row(law, &s, rows[i & 1], i > 0 ? rows[~i & 1] : NULL);
            answers = answer(law, &m, rows[i & 1], out);
            for (k = 0; k < answers; ++k)
                hash = stream_hash(hash, out[k]);
        }
        stream_hex(hash, text);
        port_print(text);
    }
    return 0;
}
