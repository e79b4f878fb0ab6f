/* logistic.c - logistic regression on the device's own rows: a LIBSVM file (--data)
 * whose labels above zero are one class and all others the other.  "features" in the
 * task fixes the size for everybody; a file with more is refused. */
#include "agent/task.h"
#include "fl/oracle/logistic.h"

typedef struct {
    os_map map;
    data_sparse rows;
    float *label;    /* (n_rows) +-1 */
    uint32_t *index; /* (n_rows) all of them */
    size_t first[2];
    partition mine; /* one client, who owns every row */
    logistic_task task;
    logistic self;
} state;

static om_status read_spec(const task_env *e, uint64_t *features, bool *intercept,
                           om_err *err)
{
    *intercept = task_bool(e, "intercept", true);
    TRY(task_u64(e, "features", 0, UINT32_MAX - 1, features, err));
    return *features ? OM_OK : fail(err, OM_EARG, "task: logistic needs \"features\"");
}

static om_status size(const task_env *e, size_t *dim, om_err *err)
{
    uint64_t features;
    bool intercept;
    TRY(read_spec(e, &features, &intercept, err));
    *dim = (size_t)features + intercept;
    return OM_OK;
}

static om_status start(const task_env *e, float *x0, om_err *err)
{
    (void)err;
    memset(x0, 0, e->dim * sizeof(float));
    return OM_OK;
}

static void close_task(void *self)
{
    state *s = self;
    data_sparse_close(&s->rows);
    os_map_close(&s->map);
    mem_free(s->label);
    mem_free(s->index);
    mem_free(s);
}

static om_status read_rows(const task_env *e, state *s, om_err *err)
{
    uint64_t features;
    bool intercept;
    TRY(read_spec(e, &features, &intercept, err));
    if (!e->data)
        return fail(err, OM_EARG, "task: this task needs the device's rows: --data FILE");
    TRY(os_map_open(e->data, &s->map, err));
    TRY(data_libsvm(s->map.p, s->map.n, &s->rows, err));
    if (s->rows.n_rows == 0 || s->rows.n_cols > features)
        return fail(err, OM_EFORMAT,
                    "task: '%s' has %zu rows of %u features; the task has %llu", e->data,
                    (size_t)s->rows.n_rows, (unsigned)s->rows.n_cols,
                    (unsigned long long)features);
    s->rows.n_cols = (uint32_t)features;
    s->label = mem_array(s->rows.n_rows, sizeof(*s->label));
    s->index = mem_array(s->rows.n_rows, sizeof(*s->index));
    if (!s->label || !s->index)
        return fail(err, OM_ENOMEM, "task: no memory for %zu rows", (size_t)s->rows.n_rows);
    for (uint32_t i = 0; i < s->rows.n_rows; i++) {
        s->label[i] = s->rows.label[i] > 0 ? 1.0f : -1.0f;
        s->index[i] = i;
    }
    s->first[1] = s->rows.n_rows;
    s->mine = (partition){.n_clients = 1, .first = s->first, .index = s->index};
    s->task = (logistic_task){
        .rows = &s->rows, .label = s->label, .split = &s->mine, .intercept = intercept};
    return task_f64(e, "l2", 0, 0, 1e9, &s->task.l2, err);
}

static om_status open_task(const task_env *e, void **self, om_err *err)
{
    state *s = mem_alloc(sizeof(*s));
    if (!s)
        return fail(err, OM_ENOMEM, "task: no memory");
    s->map.fd_ = -1;
    om_status st = read_rows(e, s, err);
    if (st == OM_OK && logistic_dim(&s->task) != e->dim)
        st = fail(err, OM_EFORMAT, "task: %zu numbers in a model of %zu",
                  logistic_dim(&s->task), e->dim);
    if (st != OM_OK) {
        close_task(s);
        return st;
    }
    *self = s;
    return OM_OK;
}

static void oracle(void *self, fl_oracle *out)
{
    state *s = self;
    logistic_oracle(&s->task, 0, &s->self, out);
}

const task_kind task_logistic = {
    .name = "logistic",
    .summary = "logistic regression on the device's own LIBSVM rows",
    .keys = "features, intercept, l2",
    .size = size,
    .start = start,
    .open = open_task,
    .oracle = oracle,
    .close = close_task,
};
