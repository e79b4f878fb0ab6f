/* peft.c - adapters in the layout of Hugging Face PEFT: a folder with
 * adapter_model.safetensors and adapter_config.json.
 *
 * Tensor names are base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight (rank,
 * in) and lora_B.weight (out, rank).  Hugging Face keeps the rows of q and k in halves;
 * a model from a GGUF file holds them in pairs, so B is reordered on the way. */
#include "adapt/modules.h"

#include "base/json.h"
#include "fmt/safetensors.h"

#include <stdio.h>

static const char *parent_of(const char *module)
{
    bool mlp = strcmp(module, "gate_proj") == 0 || strcmp(module, "up_proj") == 0 ||
               strcmp(module, "down_proj") == 0;
    return mlp ? "mlp" : "self_attn";
}

/* ---- save ------------------------------------------------------------------------- */

typedef struct {
    tensor *t;
    char *names;
    float *values; /* a copy of the flat vector with reordered B */
} peft_out;

static void fill_tensor(const trainable *t, uint32_t i, const peft_out *o)
{
    const trainable_part *p = &t->part[i];
    bool is_b = i % 2 == 1;
    uint32_t layer = 0;
    const char *module = adapt_module_name(t->model, p->weight, &layer);
    char *name = o->names + 128 * (size_t)i;
    int n = snprintf(name, 128, "base_model.model.model.layers.%u.%s.%s.lora_%c.weight", layer,
                     parent_of(module), module, is_b ? 'B' : 'A');
    float *v = o->values + p->offset;
    if (is_b && adapt_reorders(t->model, p->weight, ROWS_HALVES))
        adapt_reorder_rows(t->model, p->weight, ROWS_HALVES, t->x + p->offset, v, p->cols);
    else
        memcpy(v, t->x + p->offset, (size_t)p->rows * p->cols * sizeof(float));
    o->t[i] = (tensor){.name = {name, (size_t)n}, .type = DTYPE_F32, .n_dims = 2,
                       .dim = {p->rows, p->cols, 1, 1}, .data = v,
                       .bytes = (size_t)p->rows * p->cols * sizeof(float)};
}

static void put_targets(json_out *j, const char *list)
{
    json_open_array(j, "target_modules");
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ", ");
        if (n)
            json_put_str(j, NULL, (str){p, n});
        p += n + (p[n] != '\0');
    }
    json_shut(j, ']');
}

static om_status write_config(const trainable *t, const char *path, const char *base_name,
                              om_err *err)
{
    buf b = buf_growing(1 << 16);
    json_out j = json_to(&b);
    const char *list = t->lora.target_modules;
    json_open_object(&j, NULL);
    json_put_str(&j, "peft_type", STR("LORA"));
    json_put_str(&j, "task_type", STR("CAUSAL_LM"));
    json_put_str(&j, "base_model_name_or_path", str_of(base_name));
    json_put_u64(&j, "r", t->lora.rank);
    json_put_f64(&j, "lora_alpha", (double)t->lora.alpha);
    if (t->lora.rslora)
        json_put_bool(&j, "use_rslora", true);
    json_put_f64(&j, "lora_dropout", 0);
    json_put_str(&j, "bias", STR("none"));
    json_put_bool(&j, "fan_in_fan_out", false);
    json_put_bool(&j, "inference_mode", true);
    put_targets(&j, strcmp(list, "all") == 0
                        ? "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
                        : list);
    json_shut(&j, '}');
    om_status s = j.status == OM_OK ? os_write_file_atomic(path, b.data, b.len, err)
                                    : fail(err, j.status, "lora: cannot write '%s'", path);
    buf_free(&b);
    return s;
}

om_status peft_save(const trainable *t, const char *dir, const char *base_name, om_err *err)
{
    char path[4096];
    if (t->mode != TRAIN_LORA)
        return fail(err, OM_EARG, "peft: only adapters have this layout; save a full model as "
                                  "GGUF instead");
    TRY(os_mkdirs(dir, err));
    peft_out o = {mem_array(t->n_part, sizeof(tensor)), mem_array(t->n_part, 128),
                  mem_array(t->n, sizeof(float))};
    om_status s = OM_OK;
    if (!o.t || !o.names || !o.values)
        s = fail(err, OM_ENOMEM, "peft: no memory for %zu numbers", t->n);
    for (uint32_t i = 0; s == OM_OK && i < t->n_part; i++)
        fill_tensor(t, i, &o);
    str key = STR("format"), value = STR("pt");
    if (s == OM_OK)
        s = os_join(path, sizeof(path), dir, "adapter_model.safetensors");
    if (s == OM_OK)
        s = safetensors_write(path, o.t, t->n_part, &key, &value, 1, err);
    if (s == OM_OK)
        s = os_join(path, sizeof(path), dir, "adapter_config.json");
    if (s == OM_OK)
        s = write_config(t, path, base_name, err);
    mem_free(o.t);
    mem_free(o.names);
    mem_free(o.values);
    return s;
}

/* ---- load ------------------------------------------------------------------------- */

/* "....layers.3.self_attn.q_proj.lora_A.weight" -> layer, module, which. */
static bool parse_name(str name, uint32_t *layer, str *module, bool *is_b)
{
    static const char mark[] = ".layers.";
    const char *at = NULL, *end = name.p + name.n;
    for (size_t i = 0; i + sizeof(mark) - 1 < name.n && !at; i++)
        if (memcmp(name.p + i, mark, sizeof(mark) - 1) == 0)
            at = name.p + i + sizeof(mark) - 1;
    if (!at)
        return false;
    const char *dot = memchr(at, '.', (size_t)(end - at));
    uint64_t n;
    if (!dot || !str_u64((str){at, (size_t)(dot - at)}, &n) || n > UINT32_MAX)
        return false;
    str rest = {dot + 1, (size_t)(end - dot - 1)};
    *is_b = str_ends(rest, ".lora_B.weight");
    if (!*is_b && !str_ends(rest, ".lora_A.weight"))
        return false;
    rest.n -= strlen(".lora_A.weight");
    for (size_t i = rest.n; i > 0; i--)
        if (rest.p[i - 1] == '.') {
            *module = (str){rest.p + i, rest.n - i};
            *layer = (uint32_t)n;
            return true;
        }
    return false;
}

static trainable_part *part_of(trainable *t, const nn_weight *w, bool is_b)
{
    for (uint32_t i = is_b; i < t->n_part; i += 2)
        if (t->part[i].weight == w)
            return &t->part[i];
    return NULL;
}

static om_status take_tensor(trainable *t, const tensor *src, float *scratch, om_err *err)
{
    uint32_t layer;
    str module;
    bool is_b;
    if (!parse_name(src->name, &layer, &module, &is_b))
        return fail(err, OM_EUNSUPPORTED, "peft: tensor '%.*s' is not a LoRA factor of a "
                                          "linear layer", (int)size_min(src->name.n, 100),
                    src->name.p);
    nn_weight *w = adapt_module_weight(t->model, layer, module);
    trainable_part *p = w ? part_of(t, w, is_b) : NULL;
    if (!p)
        return fail(err, OM_EFORMAT, "peft: tensor '%.*s' has no layer in this model; is it "
                                     "the right base?", (int)size_min(src->name.n, 100),
                    src->name.p);
    if (src->n_dims != 2 || src->dim[0] != p->rows || src->dim[1] != p->cols)
        return fail(err, OM_EFORMAT,
                    "peft: tensor '%.*s' has shape %llu x %llu, the model wants %u x %u",
                    (int)size_min(src->name.n, 80), src->name.p,
                    (unsigned long long)src->dim[0], (unsigned long long)src->dim[1], p->rows,
                    p->cols);
    float *x = t->x + p->offset;
    size_t n = (size_t)p->rows * p->cols;
    if (!is_b || !adapt_reorders(t->model, w, ROWS_HALVES))
        return tensor_to_f32(src, 0, n, x, err);
    TRY(tensor_to_f32(src, 0, n, scratch, err));
    adapt_reorder_rows(t->model, w, ROWS_PAIRS, scratch, x, p->cols);
    return OM_OK;
}

/* The distinct module names among the tensors, joined by commas. */
static om_status modules_of(const safetensors *st, char *out, size_t cap, om_err *err)
{
    buf b = buf_fixed(out, cap - 1);
    memset(out, 0, cap);
    for (uint32_t i = 0; i < st->n_tensors; i++) {
        uint32_t layer;
        str module;
        bool is_b;
        char one[32];
        if (!parse_name(st->tensors[i].name, &layer, &module, &is_b) || module.n > 30)
            continue;
        memcpy(one, module.p, module.n);
        one[module.n] = '\0';
        if (strstr(out, one))
            continue;
        if (buf_str(&b, module) != OM_OK || buf_str(&b, STR(",")) != OM_OK)
            return fail(err, OM_EUNSUPPORTED, "peft: too many kinds of modules");
    }
    return b.len ? OM_OK : fail(err, OM_EFORMAT, "peft: no LoRA tensors in the file");
}

static om_status read_config(const char *path, lora_config *c, om_err *err)
{
    buf text = {0};
    json_doc doc = {0};
    TRY(os_read_file(path, 1 << 20, &text, err));
    om_status s = json_parse(text.data, text.len, 0, &doc, err);
    if (s == OM_OK) {
        uint64_t r = json_u64(json_get(doc.root, "r"), 0);
        double alpha = json_f64(json_get(doc.root, "lora_alpha"), 0);
        if (r < 1 || r > 1024 || !(alpha > 0))
            s = fail(err, OM_EFORMAT, "%s: r is %llu and lora_alpha %g; both must be positive, "
                                      "r at most 1024", path, (unsigned long long)r, alpha);
        else if (json_bool(json_get(doc.root, "use_dora"), false))
            s = fail(err, OM_EUNSUPPORTED, "%s: use_dora is not supported", path);
        *c = (lora_config){.rank = (uint32_t)r, .alpha = (float)alpha,
                           .rslora = json_bool(json_get(doc.root, "use_rslora"), false)};
    } else {
        s = fail_in(err, s, path);
    }
    json_close(&doc);
    buf_free(&text);
    return s;
}

static om_status load_tensors(const safetensors *st, llm_model *m, lora_config *c,
                              trainable *out, om_err *err)
{
    char modules[256];
    TRY(modules_of(st, modules, sizeof(modules), err));
    c->target_modules = modules;
    TRY(trainable_lora(m, c, out, err));
    float *scratch = mem_array(out->n, sizeof(float));
    om_status s = scratch ? OM_OK : fail(err, OM_ENOMEM, "peft: no memory");
    memset(out->x, 0, out->n * sizeof(float)); /* a layer without tensors adds nothing */
    for (uint32_t i = 0; s == OM_OK && i < st->n_tensors; i++)
        s = take_tensor(out, &st->tensors[i], scratch, err);
    mem_free(scratch);
    if (s != OM_OK)
        trainable_close(out);
    return s;
}

om_status peft_load(llm_model *m, const char *dir, trainable *out, om_err *err)
{
    char path[4096];
    lora_config c;
    os_map map;
    safetensors st;
    TRY(os_join(path, sizeof(path), dir, "adapter_config.json"));
    TRY(read_config(path, &c, err));
    TRY(os_join(path, sizeof(path), dir, "adapter_model.safetensors"));
    TRY(os_map_open(path, &map, err));
    om_status s = safetensors_open(map.p, map.n, &st, err);
    if (s == OM_OK) {
        s = load_tensors(&st, m, &c, out, err);
        safetensors_close(&st);
    }
    os_map_close(&map);
    return s == OM_OK ? s : fail_in(err, s, path);
}
