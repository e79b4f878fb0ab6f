/* lora_gguf.c - adapters as GGUF files: general.type = "adapter", adapter.type = "lora",
 * adapter.lora.alpha, and tensors <weight>.lora_a (rank, in) and <weight>.lora_b (out,
 * rank) named after the layer's weight.  GGUF keeps the rows of q and k of the llama
 * family in pairs. */
#include "adapt/modules.h"

#include "fmt/gguf.h"

#include <math.h>
#include <stdio.h>

static om_status write_part(gguf_writer *w, const trainable *t, uint32_t i, float *scratch,
                            om_err *err)
{
    const trainable_part *p = &t->part[i];
    const float *x = t->x + p->offset;
    if (i % 2 == 1 && adapt_reorders(t->model, p->weight, ROWS_PAIRS)) {
        adapt_reorder_rows(t->model, p->weight, ROWS_PAIRS, x, scratch, p->cols);
        x = scratch;
    }
    return gguf_write_data(w, x, (size_t)p->rows * p->cols * sizeof(float), err);
}

/* The file knows alpha / rank alone. */
static float alpha_of(const trainable *t)
{
    return t->lora.rslora ? t->lora.alpha * sqrtf((float)t->lora.rank) : t->lora.alpha;
}

om_status lora_save_gguf(const trainable *t, const char *path, om_err *err)
{
    gguf_writer *w;
    if (t->mode != TRAIN_LORA)
        return fail(err, OM_EARG, "lora: nothing to save, the training was not LoRA");
    float *scratch = mem_array(t->n, sizeof(float));
    if (!scratch)
        return fail(err, OM_ENOMEM, "lora: no memory for %zu numbers", t->n);
    om_status s = gguf_writer_open(path, &w, err);
    if (s != OM_OK) {
        mem_free(scratch);
        return s;
    }
    gguf_put_str(w, "general.type", STR("adapter"));
    gguf_put_str(w, "general.architecture", str_of(t->model->arch->name));
    gguf_put_str(w, "adapter.type", STR("lora"));
    gguf_put_f32(w, "adapter.lora.alpha", alpha_of(t));
    for (uint32_t i = 0; i < t->n_part; i++) {
        const trainable_part *p = &t->part[i];
        gguf_put_tensor_info(w, &(tensor){.name = p->name, .type = DTYPE_F32, .n_dims = 2,
                                          .dim = {p->rows, p->cols, 1, 1}});
    }
    s = gguf_begin_data(w, err);
    for (uint32_t i = 0; s == OM_OK && i < t->n_part; i++)
        s = write_part(w, t, i, scratch, err);
    mem_free(scratch);
    if (s == OM_OK)
        return gguf_writer_commit(w, err);
    gguf_writer_abort(w);
    return s;
}

/* ---- load ------------------------------------------------------------------------- */

static const tensor *factor(const gguf *g, const nn_weight *w, const char *suffix)
{
    char name[160];
    snprintf(name, sizeof(name), "%.120s%s", w->name, suffix);
    return gguf_tensor(g, name);
}

/* Modules that have a factor in the file, as a target list, and their rank. */
static om_status survey(const gguf *g, const llm_model *m, char *modules, size_t cap,
                        uint32_t *rank, om_err *err)
{
    buf b = buf_fixed(modules, cap - 1);
    memset(modules, 0, cap);
    *rank = 0;
    for (uint32_t i = 0; i < m->n_weight; i++) {
        uint32_t layer;
        const tensor *a = factor(g, &m->weight[i], ".lora_a");
        const char *module = a ? adapt_module_name(m, &m->weight[i], &layer) : NULL;
        if (!a)
            continue;
        if (!module || a->n_dims != 2 || a->dim[0] < 1 || a->dim[0] > 1024)
            return fail(err, OM_EUNSUPPORTED, "lora: '%s' cannot take this adapter",
                        m->weight[i].name);
        if (*rank && a->dim[0] != *rank)
            return fail(err, OM_EUNSUPPORTED, "lora: ranks %u and %u in one file", *rank,
                        (unsigned)a->dim[0]);
        *rank = (uint32_t)a->dim[0];
        if (!strstr(modules, module)) {
            TRY(buf_str(&b, str_of(module)));
            TRY(buf_str(&b, STR(",")));
        }
    }
    return *rank ? OM_OK : fail(err, OM_EFORMAT, "lora: no tensor of the file fits a layer of "
                                                 "this model; is it the right base?");
}

static om_status take_part(trainable *t, uint32_t i, const gguf *g, float *scratch, om_err *err)
{
    trainable_part *p = &t->part[i];
    const tensor *src = factor(g, p->weight, i % 2 ? ".lora_b" : ".lora_a");
    float *x = t->x + p->offset;
    size_t n = (size_t)p->rows * p->cols;
    if (!src) {
        memset(x, 0, n * sizeof(float));
        return OM_OK;
    }
    if (src->n_dims != 2 || src->dim[0] != p->rows || src->dim[1] != p->cols)
        return fail(err, OM_EFORMAT, "lora: '%.*s' has the wrong shape for this model",
                    (int)p->name.n, p->name.p);
    if (i % 2 == 0 || !adapt_reorders(t->model, p->weight, ROWS_PAIRS))
        return tensor_to_f32(src, 0, n, x, err);
    TRY(tensor_to_f32(src, 0, n, scratch, err));
    adapt_reorder_rows(t->model, p->weight, ROWS_HALVES, scratch, x, p->cols);
    return OM_OK;
}

static om_status load(const gguf *g, llm_model *m, trainable *out, om_err *err)
{
    char modules[256];
    lora_config c = {.alpha = (float)gguf_f64(g, "adapter.lora.alpha", 0)};
    if (!str_eq(gguf_str(g, "adapter.type", ""), STR("lora")))
        return fail(err, OM_EFORMAT, "lora: the file is not an adapter (adapter.type is not "
                                     "'lora')");
    TRY(survey(g, m, modules, sizeof(modules), &c.rank, err));
    c.target_modules = modules;
    TRY(trainable_lora(m, &c, out, err));
    float *scratch = mem_array(out->n, sizeof(float));
    om_status s = scratch ? OM_OK : fail(err, OM_ENOMEM, "lora: no memory");
    for (uint32_t i = 0; s == OM_OK && i < out->n_part; i++)
        s = take_part(out, i, g, scratch, err);
    mem_free(scratch);
    if (s != OM_OK)
        trainable_close(out);
    return s;
}

om_status lora_load_gguf(llm_model *m, const char *path, trainable *out, om_err *err)
{
    os_map map;
    gguf g;
    TRY(os_map_open(path, &map, err));
    om_status s = gguf_open(map.p, map.n, &g, err);
    if (s == OM_OK) {
        s = load(&g, m, out, err);
        gguf_close(&g);
    }
    os_map_close(&map);
    return s == OM_OK ? s : fail_in(err, s, path);
}

/* Writing a model folds what hangs on its weights (llm/export.c). */
om_status lora_merge(const trainable *t, const char *path, dtype type, om_err *err)
{
    return llm_write_gguf(t->model, path, type, NULL, NULL, err);
}
