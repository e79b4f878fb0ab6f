/* task.c - the table of task kinds, and reading numbers from a task's text. */
#include "agent/task.h"
#include "agent/task/list.h"

#define X(name) extern const task_kind task_##name;
TASK_LIST(X)
#undef X

const task_kind *const task_kinds[] = {
#define X(name) &task_##name,
    TASK_LIST(X)
#undef X
        NULL,
};

om_status task_need(str name, const task_kind **out, om_err *err)
{
    const char *names[countof(task_kinds)] = {NULL};
    for (size_t i = 0; task_kinds[i]; i++) {
        names[i] = task_kinds[i]->name;
        if (str_is(name, names[i])) {
            *out = task_kinds[i];
            return OM_OK;
        }
    }
    return fail(err, OM_EUNSUPPORTED,
                "task: this program knows no tasks of kind '%.*s'; did "
                "you mean '%s'?",
                (int)size_min(name.n, 40), name.p, nearest_name(names, name));
}

om_status task_u64(const task_env *e, const char *key, uint64_t def, uint64_t max,
                   uint64_t *out, om_err *err)
{
    const json *j = json_get(e->spec, key);
    *out = def;
    if (!j)
        return OM_OK;
    if (j->type != JSON_NUMBER || !str_u64(j->text, out) || *out > max)
        return fail(err, OM_EARG, "task: \"%s\" must be an integer up to %llu", key,
                    (unsigned long long)max);
    return OM_OK;
}

om_status task_f64(const task_env *e, const char *key, double def, double min, double max,
                   double *out, om_err *err)
{
    const json *j = json_get(e->spec, key);
    *out = j ? json_f64(j, min - 1) : def;
    if (!(*out >= min && *out <= max))
        return fail(err, OM_EARG, "task: \"%s\" must be a number in %g..%g", key, min, max);
    return OM_OK;
}

bool task_bool(const task_env *e, const char *key, bool def)
{
    return json_bool(json_get(e->spec, key), def);
}
