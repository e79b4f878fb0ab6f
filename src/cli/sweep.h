/* sweep.h - several runs that differ in some keys, and the page that lays them side by
 * side.
 *
 *     --sweep algorithm.lr=0.1,0.01 --sweep codec.name=identity,topk     four runs
 *
 * Each run is an ordinary one in DIR/run-N; its curve is read back from its results.csv,
 * so runs that an earlier call made are on the page too.
 */
#ifndef CLI_SWEEP_H
#define CLI_SWEEP_H

#include "cli/cli.h"
#include "sim/sim.h"

enum { SWEEP_AXES = 8, SWEEP_RUNS = 4096, SWEEP_NAME = 400 };

typedef struct {
    str key, values; /* "0.1,0.01" */
    size_t n;
} sweep_axis;

typedef struct {
    sweep_axis axis[SWEEP_AXES];
    size_t n_axes, n_runs; /* n_runs: product of the axes' n; 1 without any */
} sweep;

/* Of every --sweep KEY=V1,V2...; the text stays the caller's. */
om_status sweep_parse(const cli *c, sweep *out, om_err *err);
/* What run number r sets on that axis; the last axis turns fastest. */
str sweep_value(const sweep *s, size_t r, size_t axis);
/* "lr=0.1 name=topk" (last parts of the keys). */
void sweep_name(const sweep *s, size_t r, char out[SWEEP_NAME]);

typedef struct {
    char name[SWEEP_NAME];
    sim_score score;          /* of the final model */
    uint64_t up, down;        /* bytes of all rounds */
    double simulated;         /* seconds */
    size_t n;                 /* rounds */
    double *round, *bits, *time, *loss, *accuracy; /* (n): bits sent up by one client, and
                                                      time, until the end of the round */
} sweep_run;

/* The rows of DIR/results.csv. sweep_run_clear frees. */
om_status sweep_read(const char *path, sweep_run *out, om_err *err);
void sweep_run_clear(sweep_run *r);

/* The table of runs as CSV and JSON lines, and the page. */
om_status sweep_csv(const sweep *s, const sweep_run *runs, buf *out);
om_status sweep_jsonl(const sweep *s, const sweep_run *runs, buf *out);
om_status sweep_page(const char *title, const sweep *s, const sweep_run *runs, buf *out);

#endif
