/* api.c - octomil/train.h over this floor. */
#include "octomil/train.h"

#include "adapt/adapt.h"

struct om_adapter {
    trainable t;
};

/* ---- adapters ---------------------------------------------------------------------- */

static om_status is_prompt(const char *path, bool *yes, om_err *err)
{
    os_map map;
    gguf g;
    TRY(os_map_open(path, &map, err));
    om_status s = gguf_open(map.p, map.n, &g, err);
    if (s == OM_OK) {
        *yes = str_is(gguf_str(&g, "adapter.type", ""), "prompt");
        gguf_close(&g);
    }
    os_map_close(&map);
    return s == OM_OK ? s : fail_in(err, s, path);
}

om_status adapter_load(llm_model *m, const char *path, trainable *out, om_err *err)
{
    bool prompt = false;
    if (os_is_dir(path))
        return peft_load(m, path, out, err);
    TRY(is_prompt(path, &prompt, err));
    return prompt ? prompt_load_gguf(m, path, out, err) : lora_load_gguf(m, path, out, err);
}

om_status trainable_save(const trainable *t, const char *dir, const char *base_name,
                         dtype type, om_err *err)
{
    char path[4096];
    bool weights = t->mode == TRAIN_FULL || t->mode == TRAIN_MATRICES;
    TRY(os_mkdirs(dir, err));
    if (os_join(path, sizeof(path), dir, weights ? "model.gguf" : "adapter.gguf") != OM_OK)
        return fail(err, OM_EARG, "the folder '%.80s...' has too long a name", dir);
    if (weights)
        return llm_write_gguf(t->model, path, type, NULL, NULL, err);
    if (t->mode == TRAIN_PROMPT)
        return prompt_save_gguf(t, path, err);
    TRY(lora_save_gguf(t, path, err));
    return peft_save(t, dir, base_name, err);
}

om_status om_adapter_open(om_model *m, const char *path, om_adapter **out, om_err *err)
{
    *out = NULL;
    om_adapter *a = mem_alloc(sizeof(*a));
    if (!a)
        return fail(err, OM_ENOMEM, "adapter: no memory");
    om_status s = adapter_load(m, path, &a->t, err);
    if (s != OM_OK) {
        mem_free(a);
        return s;
    }
    *out = a;
    return OM_OK;
}

void om_adapter_close(om_adapter *a)
{
    if (!a)
        return;
    trainable_close(&a->t);
    mem_free(a);
}

om_status om_adapter_merge(const om_adapter *a, const char *path, const char *type,
                           om_err *err)
{
    dtype t = dtype_find(str_of(type ? type : "F16"));
    if (t == DTYPE_COUNT)
        return fail(err, OM_EARG, "adapter: '%.40s' is not a tensor type", type);
    if (a->t.mode == TRAIN_PROMPT)
        return fail(err, OM_EARG, "adapter: a trained prompt goes before the text and cannot be "
                                  "merged into weights; use it with --adapter");
    return lora_merge(&a->t, path, t, err);
}

/* ---- training ------------------------------------------------------------------------ */

typedef struct {
    llm_model *m;
    const om_train_opts *o;
    const char *out;
    int32_t *ids;
    size_t n_ids;
    kern k;
    pool *pool;
    trainable t;
    trainer *trainer;
} job;

static train_config config_of(const job *j)
{
    const om_train_opts *o = j->o;
    uint32_t seq_len = o->seq_len ? o->seq_len : 128;
    return (train_config){
        .optimizer = o->optimizer,
        .lr = o->lr > 0 ? o->lr : 1e-3,
        .schedule = NN_SCHEDULE_COSINE,
        .warmup = 10,
        .steps = o->steps ? o->steps : 100,
        .min_ratio = 0.1,
        .clip_norm = o->clip_norm < 0 ? 0 : o->clip_norm > 0 ? o->clip_norm : 1,
        .batch = o->batch ? o->batch : 4,
        .seq_len = o->seq_len || seq_len < j->m->h.context ? seq_len : j->m->h.context,
        .accumulate = 1,
        .memory_bytes = o->memory_bytes,
        .seed = o->seed,
        .k = &j->k,
        .pool = j->pool,
        .cancel = o->cancel,
    };
}

static om_status make_trainable(job *j, om_err *err)
{
    const om_train_opts *o = j->o;
    lora_config lora = {.rank = o->rank, .alpha = o->alpha,
                        .target_modules = o->target_modules, .seed = o->seed};
    return o->full ? trainable_full(j->m, &j->t, err)
                   : trainable_lora(j->m, &lora, &j->t, err);
}

static om_status run_steps(job *j, om_train_result *r, om_err *err)
{
    train_config c = config_of(j);
    token_data d = {j->ids, j->n_ids, c.seq_len};
    TRY(trainer_open(&j->t, &c, &j->trainer, err));
    r->trainable = j->t.n;
    for (uint64_t i = 0; i < c.steps; i++) {
        train_report step;
        TRY(trainer_step(j->trainer, &d, &step, err));
        if (i == 0)
            r->first_loss = step.loss;
        r->last_loss = step.loss;
        r->steps = step.step;
        if (j->o->progress)
            j->o->progress(j->o->progress_ctx, "training", "steps", step.step, c.steps);
    }
    return OM_OK;
}

static om_status write_result(job *j, om_err *err)
{
    return trainable_save(&j->t, j->out, "", DTYPE_F16, err);
}

om_status om_train(om_model *m, const char *text, size_t text_bytes, const om_train_opts *opts,
                   const char *out, om_train_result *result, om_err *err)
{
    static const om_train_opts defaults = {0};
    om_train_result local;
    job j = {.m = m, .o = opts ? opts : &defaults, .out = out};
    om_train_result *r = result ? result : &local;
    *r = (om_train_result){0};
    kern_init(&j.k, 0);
    om_status s = llm_tokenize(m, (str){text, text_bytes}, &j.ids, &j.n_ids, err);
    if (s == OM_OK)
        s = pool_open((int)j.o->threads, &j.pool, err);
    if (s == OM_OK)
        s = make_trainable(&j, err);
    if (s == OM_OK)
        s = run_steps(&j, r, err);
    if (s == OM_OK)
        s = write_result(&j, err);
    trainer_close(j.trainer);
    if (j.t.owned_)
        trainable_close(&j.t);
    pool_close(j.pool);
    mem_free(j.ids);
    return s;
}
