/* llm.c - a language model on the device's own text (--data FILE): an adapter over a
 * frozen base, or every weight.  The base is the file the coordinator names by SHA-256:
 * given by --model, or fetched once and kept in the cache. */
#include "agent/task.h"
#include "fl/oracle/llm.h"

#include <stdio.h>

enum { MAX_TEXT = 1u << 30 };

typedef struct {
    llm_model *base;
    oracle_llm *oracle;
    int32_t *ids;
    token_data data;
    char modules[128];
} state;

static om_status read_spec(const task_env *e, state *s, lora_config *lora,
                           oracle_llm_config *c, om_err *err)
{
    uint64_t rank, seq_len, batch, memory_mb, prompt;
    double alpha;
    str modules = json_str(json_get(e->spec, "target_modules"), "q_proj,v_proj");
    str how = json_str(json_get(e->spec, "adaptation"), "lora");
    train_mode mode = str_is(how, "full")     ? TRAIN_FULL
                      : str_is(how, "prompt") ? TRAIN_PROMPT
                                              : TRAIN_LORA;
    if (mode == TRAIN_LORA && !str_is(how, "lora"))
        return fail(err, OM_EUNSUPPORTED, "task: adaptation '%.*s'; this program knows lora, "
                    "full and prompt", (int)size_min(how.n, 40), how.p);
    if (modules.n >= sizeof(s->modules))
        return fail(err, OM_EARG, "task: target_modules is too long");
    snprintf(s->modules, sizeof(s->modules), "%.*s", (int)modules.n, modules.p);
    TRY(task_u64(e, "rank", 8, 1024, &rank, err));
    TRY(task_f64(e, "alpha", 2.0 * (double)rank, 1e-6, 1e6, &alpha, err));
    TRY(task_u64(e, "seq_len", 64, 1 << 20, &seq_len, err));
    TRY(task_u64(e, "batch", 4, 4096, &batch, err));
    TRY(task_u64(e, "memory_mb", 0, 1 << 24, &memory_mb, err));
    TRY(task_u64(e, "prompt_tokens", 16, 4096, &prompt, err));
    *lora = (lora_config){.rank = (uint32_t)rank, .alpha = (float)alpha,
                          .target_modules = s->modules, .seed = e->seed};
    *c = (oracle_llm_config){.base = s->base, .mode = mode, .lora = lora,
                             .prompt_tokens = (uint32_t)prompt,
                             .seq_len = (uint32_t)seq_len, .batch = (uint32_t)batch,
                             .memory_bytes = (size_t)memory_mb * 1000000, .k = e->k,
                             .pool = e->pool, .cancel = e->cancel};
    return OM_OK;
}

static om_status open_base(const task_env *e, state *s, om_err *err)
{
    lora_config lora;
    oracle_llm_config c;
    if (!e->model)
        return fail(err, OM_EARG, "task: a language model needs its base: --model FILE");
    TRY(llm_open(e->model, &s->base, err));
    TRY(read_spec(e, s, &lora, &c, err));
    return oracle_llm_open(&c, &s->oracle, err);
}

static void close_task(void *self)
{
    state *s = self;
    oracle_llm_close(s->oracle);
    if (s->base)
        llm_close(s->base);
    mem_free(s->ids);
    mem_free(s);
}

static om_status open_state(const task_env *e, state **out, om_err *err)
{
    state *s = mem_alloc(sizeof(*s));
    if (!s)
        return fail(err, OM_ENOMEM, "task: no memory");
    om_status st = open_base(e, s, err);
    if (st != OM_OK) {
        close_task(s);
        return st;
    }
    *out = s;
    return OM_OK;
}

/* ---- the coordinator's side ---------------------------------------------------------- */

static om_status size(const task_env *e, size_t *dim, om_err *err)
{
    state *s;
    TRY(open_state(e, &s, err));
    *dim = oracle_llm_dim(s->oracle);
    close_task(s);
    return OM_OK;
}

static om_status start(const task_env *e, float *x0, om_err *err)
{
    state *s;
    TRY(open_state(e, &s, err));
    memcpy(x0, oracle_llm_start(s->oracle), oracle_llm_dim(s->oracle) * sizeof(float));
    close_task(s);
    return OM_OK;
}

/* ---- the device's side --------------------------------------------------------------- */

static om_status read_text(const task_env *e, state *s, om_err *err)
{
    buf text = {0};
    uint64_t seq_len;
    TRY(task_u64(e, "seq_len", 64, 1 << 20, &seq_len, err));
    if (!e->data)
        return fail(err, OM_EARG, "task: this task needs the device's text: --data FILE");
    TRY(os_read_file(e->data, MAX_TEXT, &text, err));
    om_status st = llm_tokenize(s->base, (str){(char *)text.data, text.len}, &s->ids,
                                &s->data.n, err);
    buf_free(&text);
    s->data.ids = s->ids;
    s->data.seq_len = (uint32_t)seq_len;
    if (st == OM_OK && s->data.n < 2)
        return fail(err, OM_EARG, "task: '%s' has too little text to learn from", e->data);
    return st;
}

static om_status open_task(const task_env *e, void **self, om_err *err)
{
    state *s;
    TRY(open_state(e, &s, err));
    om_status st = read_text(e, s, err);
    if (st == OM_OK && oracle_llm_dim(s->oracle) != e->dim)
        st = fail(err, OM_EFORMAT, "task: %zu trainable numbers here, %zu in the federation: "
                  "is it the same base model?", oracle_llm_dim(s->oracle), e->dim);
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
    *out = oracle_llm_client(s->oracle, &s->data);
}

const task_kind task_llm = {
    .name = "llm",
    .summary = "a language model on the device's own text",
    .keys = "adaptation, rank, alpha, target_modules, prompt_tokens, seq_len, batch, memory_mb, "
            "model_sha256",
    .size = size,
    .start = start,
    .open = open_task,
    .oracle = oracle,
    .close = close_task,
};
