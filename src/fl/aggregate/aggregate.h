/* aggregate.h - robust aggregators: n updates in, one out, when up to f of the n may be
 * anything at all (Byzantine: Blanchard et al., NeurIPS 2017).
 *
 * ONE SHAPE FOR ALL OF THEM.  Screening, mixing and aggregating are each a matrix of
 * weights over the rows, chosen from the rows' inner products alone:
 *
 *     G = V V'  ->  screen (rows out)  ->  mix (G <- M G M')  ->  rule
 *
 * and a rule either ends in weights w, the result being w' M V, or in an order statistic
 * of each coordinate of M V.  So whatever is combined, the data (n x d) is read once for
 * G (not at all for a plain coordinate rule) and once for the result; M V is never
 * stored.  Members see an n x n problem: distances are G_ii + G_jj - 2 G_ij.
 *
 * To add one: aggregate/<name>.c ending in a row, X(name) in list.h.  The laws then hold
 * it to permutation and translation, its (f, kappa) bound under attack, and the mean for
 * equal rows. */
#ifndef FL_AGGREGATE_AGGREGATE_H
#define FL_AGGREGATE_AGGREGATE_H

#include "kern/cohort.h"

/* Every member's table begins with AGGREGATE_PARAMS, so these indices hold in all. */
enum {
    AGGREGATE_F,
    AGGREGATE_PRE,
    AGGREGATE_BUCKET,
    AGGREGATE_SCREEN,
    AGGREGATE_COMMON /* how many */
};
enum { PRE_NONE, PRE_BUCKETING, PRE_NNM, PRE_ARC, PRE_ARC_NNM };
#define AGGREGATE_PRES "none|bucketing|nnm|arc|arc+nnm"

#define AGGREGATE_PARAMS                                                                   \
    [AGGREGATE_F] = {"num_byzantine", 0, 0, 8191,                                          \
                     "updates of a round that may be hostile", NULL},                      \
    [AGGREGATE_PRE] = {"pre", 0, 0, 4,                                                     \
                       "before the rule: means of random buckets; means of nearest "       \
                       "neighbours; clipping of the longest",                              \
                       AGGREGATE_PRES},                                                    \
    [AGGREGATE_BUCKET] = {"bucket", 2, 1, 8191, "updates in a bucket", NULL},              \
    [AGGREGATE_SCREEN] = {"screen", 0, 0, 1e9,                                             \
                          "drop updates longer than this many median lengths; 0: none",    \
                          NULL}

/* What a member looks at: m rows (after mixing) and their inner products. */
typedef struct {
    size_t m;
    const double *gram; /* (m, m); NULL when the member does not ask for it */
    size_t f;
    size_t trusted; /* row of the trusted client (fltrust), or m */
    const double *p;
} aggregate_view;

/* What it answers: the weights (m), or a rank of each coordinate over the rows that
 * `chosen` (m) marks. */
typedef struct {
    bool ranked;
    cohort_rank rank;
    size_t cut;
    double *weight;  /* (m) zeros at first */
    uint8_t *chosen; /* (m) ones at first  */
} aggregate_plan;

enum {
    AGGREGATE_GRAM = 1u << 0,    /* wants inner products */
    AGGREGATE_TRUSTED = 1u << 1, /* wants the trusted client's row; no mixing */
    AGGREGATE_MOVES = 1u << 2,   /* moves with the rows: A(v + c) = A(v) + c */
    AGGREGATE_ROBUST = 1u << 3,  /* bounded whatever f rows hold, given enough others */
};

typedef struct aggregator aggregator;
struct aggregator {
    const char *name;
    const char *alias; /* another spelling, or NULL */
    const char *summary, *source;
    unsigned flags;
    const param *params;
    /* Fewest rows it works on. */
    size_t (*least)(const double *p, size_t f);
    size_t (*plan_bytes)(size_t m);
    om_status (*plan)(const aggregate_view *v, aggregate_plan *out, arena scratch,
                      om_err *err);
};

extern const aggregator *const aggregators[]; /* ends with NULL */
/* By name or alias, with "did you mean". */
om_status aggregator_need(str name, const aggregator **out, om_err *err);

typedef struct {
    const aggregator *row; /* NULL reads as mean */
    double p[16];
} aggregate_rule;

/* The weighted mean, which needs no matrix of updates? */
bool aggregate_is_mean(const aggregate_rule *a);
/* Parameters that no round could satisfy; n: updates of a full round. */
om_status aggregate_check(const aggregate_rule *a, size_t n, om_err *err);

/* Scratch of aggregate_run for up to n rows. */
size_t aggregate_bytes(const aggregate_rule *a, const kern *k, size_t n, const pool *p);
/* out (d) from the rows; id (n): whose they are.  r: the coins of bucketing.  Fails with
 * OM_ELIMIT when the rows are too few. */
om_status aggregate_run(const aggregate_rule *a, const cohort *rows, const uint32_t *id,
                        rng r, const kern *k, pool *p, float *out, arena scratch,
                        om_err *err);

/* ---- for members ---- */

/* |row i - row j|^2, never negative. */
double aggregate_distance(const aggregate_view *v, size_t i, size_t j);
/* The sum of the `take` least squared distances from row i to other marked rows. */
double aggregate_crowding(const aggregate_view *v, const uint8_t *marked, size_t i,
                          size_t take, double *scratch);
/* Krum's score with its n - f - 2 neighbours among `count` marked rows. */
size_t aggregate_neighbours(size_t count, size_t f);
int aggregate_ascending(const void *a, const void *b); /* doubles, for qsort */

#endif
