/* task.h - the kinds of problem a device can work on: what stands between a task's text
 * and the fl_oracle that the federated algorithm asks for gradients.
 *
 * To add one: write agent/task/<name>.c ending in one const row and add X(name) to
 * task/list.h.  The coordinator only calls size() and start(), so that model and
 * starting point come from the same code on both sides. */
#ifndef AGENT_TASK_H
#define AGENT_TASK_H

#include "base/json.h"
#include "fl/algo.h"
#include "os/os.h"

typedef struct {
    const json *spec; /* the task's JSON object; valid during the call */
    uint32_t client, n_clients;
    uint64_t seed;
    size_t dim;
    const char *data;  /* the device's own file or folder; NULL: none given */
    const char *model; /* base model file of kinds that need one, or NULL   */
    const kern *k;
    pool *pool;
    const om_cancel *cancel;
} task_env;

typedef struct task_kind task_kind;
struct task_kind {
    const char *name, *summary;
    const char *keys; /* "dim, heterogeneity": members of the spec */
    /* How many numbers are learned; and x0 (dim). The coordinator's side. */
    om_status (*size)(const task_env *e, size_t *dim, om_err *err);
    om_status (*start)(const task_env *e, float *x0, om_err *err);
    /* The device's side: *self is closed by close(). */
    om_status (*open)(const task_env *e, void **self, om_err *err);
    void (*oracle)(void *self, fl_oracle *out);
    void (*close)(void *self);
};

extern const task_kind *const task_kinds[];                        /* ends with NULL */
om_status task_need(str name, const task_kind **out, om_err *err); /* "did you mean" */

/* A member of the spec, or its default when absent; refuses what is no number in range. */
om_status task_u64(const task_env *e, const char *key, uint64_t def, uint64_t max,
                   uint64_t *out, om_err *err);
om_status task_f64(const task_env *e, const char *key, double def, double min, double max,
                   double *out, om_err *err);
bool task_bool(const task_env *e, const char *key, bool def);

#endif
