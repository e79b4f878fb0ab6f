/* cmd_inspect.c - what is in a model file: metadata, tensors, sizes.
 *
 * A GGUF or safetensors file is listed as it is, whether or not the family is known; a
 * folder or a llama2.c checkpoint by the weights it opens to. */
#include "cli/cli.h"

#include "fmt/safetensors.h"
#include "llm/model.h"
#include "octomil/model.h"

enum { SHOWN = 8, TEXT_SHOWN = 200 };

typedef struct {
    cli *c;
    buf json;
    json_out o;
    uint64_t parameters, bytes;
    uint32_t n_tensors;
} listing;

/* ---- values -------------------------------------------------------------------------- */

static bool whole(gguf_type t)
{
    return t != GGUF_F32 && t != GGUF_F64 && t != GGUF_BOOL && t != GGUF_STRING;
}

static void put_value(listing *l, const gguf *g, const gguf_kv *kv, const char *key)
{
    json_out *o = &l->o;
    if (kv->type == GGUF_STRING)
        json_put_str(o, key, gguf_str(g, key, ""));
    else if (kv->type == GGUF_BOOL)
        json_put_bool(o, key, gguf_bool(g, key, false));
    else if (kv->type == GGUF_U64)
        json_put_u64(o, key, gguf_u64(g, key, 0));
    else if (whole(kv->type))
        json_put_i64(o, key, gguf_i64(g, key, 0));
    else
        json_put_f64(o, key, gguf_f64(g, key, 0));
}

static void put_array(listing *l, const gguf_kv *kv, const char *key)
{
    static const char *const names[] = {"u8",  "i8",   "u16",    "i16",   "u32", "i32", "f32",
                                        "bool", "string", "array", "u64", "i64", "f64"};
    json_open_object(&l->o, key);
    json_put_str(&l->o, "array_of", str_of(names[kv->elem]));
    json_put_u64(&l->o, "count", kv->count);
    json_shut(&l->o, '}');
}

static void print_text(listing *l, str s)
{
    bool cut = s.n > TEXT_SHOWN;
    cli_write(l->c, STR("\""));
    for (size_t i = 0; i < s.n && i < TEXT_SHOWN; i++) {
        unsigned char b = (unsigned char)s.p[i];
        if (b == '\n')
            cli_write(l->c, STR("\\n"));
        else if (b < 0x20 || b == 0x7f) /* a file must not drive the terminal */
            cli_print(l->c, "\\x%02x", b);
        else
            cli_write(l->c, (str){s.p + i, 1});
    }
    cli_print(l->c, "\"%s", cut ? "..." : "");
}

static om_status print_array(listing *l, const gguf_kv *kv, om_err *err)
{
    uint64_t n = kv->count < SHOWN ? kv->count : SHOWN;
    str *texts = NULL;
    if (kv->elem == GGUF_STRING && kv->count) {
        texts = mem_array((size_t)kv->count, sizeof(*texts));
        if (!texts)
            return fail(err, OM_ENOMEM, "inspect: no memory for %llu strings",
                        (unsigned long long)kv->count);
        om_status s = gguf_strings(kv, texts, err);
        if (s != OM_OK) {
            mem_free(texts);
            return s;
        }
    }
    cli_print(l->c, "[%llu: ", (unsigned long long)kv->count);
    for (uint64_t i = 0; i < n && kv->elem != GGUF_ARRAY; i++) {
        if (texts)
            print_text(l, texts[i]);
        else if (whole(kv->elem))
            cli_print(l->c, "%lld", (long long)gguf_at_i64(kv, i));
        else
            cli_print(l->c, "%g", gguf_at_f64(kv, i));
        cli_print(l->c, i + 1 < kv->count ? ", " : "");
    }
    cli_print(l->c, n < kv->count ? "...]" : "]");
    mem_free(texts);
    return OM_OK;
}

static om_status list_value(listing *l, const gguf *g, const gguf_kv *kv, om_err *err)
{
    char *key = mem_strdup(kv->key);
    om_status s = OM_OK;
    if (!key)
        return fail(err, OM_ENOMEM, "inspect: no memory");
    if (l->c->json) {
        if (kv->type == GGUF_ARRAY)
            put_array(l, kv, key);
        else
            put_value(l, g, kv, key);
    } else {
        cli_print(l->c, "%-44s ", key);
        if (kv->type == GGUF_ARRAY)
            s = print_array(l, kv, err);
        else if (kv->type == GGUF_STRING)
            print_text(l, gguf_str(g, key, ""));
        else if (kv->type == GGUF_BOOL)
            cli_print(l->c, "%s", gguf_bool(g, key, false) ? "true" : "false");
        else if (whole(kv->type))
            cli_print(l->c, "%lld", (long long)gguf_i64(g, key, 0));
        else
            cli_print(l->c, "%.9g", gguf_f64(g, key, 0));
        cli_print(l->c, "\n");
    }
    mem_free(key);
    return s;
}

/* ---- tensors ------------------------------------------------------------------------- */

static void list_tensor(listing *l, const tensor *t)
{
    const dtype_traits *d = dtype_of(t->type);
    const char *type = d && d->name ? d->name : "unknown";
    char shape[96], size[24];
    buf b = buf_fixed(shape, sizeof(shape));
    for (uint32_t i = 0; i < t->n_dims; i++)
        (void)buf_fmt(&b, "%s%llu", i ? " x " : "", (unsigned long long)t->dim[i]);
    l->parameters += tensor_count(t);
    l->bytes += t->bytes;
    l->n_tensors++;
    if (!l->c->json) {
        cli_print(l->c, "%-44.*s %-8s %-20.*s %s\n", (int)size_min(t->name.n, 120),
                  t->name.p, type, (int)b.len, shape, cli_bytes(size, t->bytes));
        return;
    }
    json_open_object(&l->o, NULL);
    json_put_str(&l->o, "name", t->name);
    json_put_str(&l->o, "type", str_of(type));
    json_open_array(&l->o, "shape");
    for (uint32_t i = 0; i < t->n_dims; i++)
        json_put_u64(&l->o, NULL, t->dim[i]);
    json_shut(&l->o, ']');
    json_put_u64(&l->o, "bytes", t->bytes);
    json_shut(&l->o, '}');
}

static void begin(listing *l, const char *format)
{
    l->json = buf_growing((size_t)1 << 30);
    l->o = json_to(&l->json);
    if (l->c->json) {
        json_open_object(&l->o, NULL);
        json_put_str(&l->o, "format", str_of(format));
        json_open_object(&l->o, "metadata");
    } else {
        cli_print(l->c, "format: %s\n\n", format);
    }
}

static void begin_tensors(listing *l)
{
    if (l->c->json) {
        json_shut(&l->o, '}');
        json_open_array(&l->o, "tensors");
    } else {
        cli_print(l->c, "\n");
    }
}

static om_status finish(listing *l, om_err *err)
{
    char size[24];
    om_status s = OM_OK;
    if (l->c->json) {
        json_shut(&l->o, ']');
        json_put_u64(&l->o, "n_tensors", l->n_tensors);
        json_put_u64(&l->o, "parameters", l->parameters);
        json_put_u64(&l->o, "tensor_bytes", l->bytes);
        json_shut(&l->o, '}');
        s = l->o.status;
        if (s == OM_OK)
            cli_write(l->c, (str){(const char *)l->json.data, l->json.len});
        else
            fail(err, s, "inspect: the answer is too large");
    } else {
        cli_print(l->c, "\n%u tensors, %llu parameters, %s", l->n_tensors,
                  (unsigned long long)l->parameters, cli_bytes(size, l->bytes));
    }
    cli_print(l->c, "\n");
    buf_free(&l->json);
    return s;
}

/* ---- kinds of files ------------------------------------------------------------------ */

static om_status inspect_gguf(listing *l, const os_map *map, om_err *err)
{
    gguf g;
    om_status s = OM_OK;
    TRY(gguf_open(map->p, map->n, &g, err));
    begin(l, g.version == 2 ? "GGUF v2" : "GGUF v3");
    for (uint32_t i = 0; s == OM_OK && i < g.n_kv; i++)
        s = list_value(l, &g, &g.kv[i], err);
    begin_tensors(l);
    for (uint32_t i = 0; i < g.n_tensors; i++)
        list_tensor(l, &g.tensors[i]);
    om_status ends = finish(l, err);
    gguf_close(&g);
    return s == OM_OK ? ends : s;
}

static om_status inspect_safetensors(listing *l, const os_map *map, om_err *err)
{
    safetensors st;
    TRY(safetensors_open(map->p, map->n, &st, err));
    begin(l, "safetensors");
    for (uint32_t i = 0; i < st.n_meta; i++) {
        char key[128];
        buf b = buf_fixed(key, sizeof(key) - 1);
        (void)buf_put(&b, st.meta_key[i].p, size_min(st.meta_key[i].n, sizeof(key) - 1));
        key[b.len] = '\0';
        if (l->c->json) {
            json_put_str(&l->o, key, st.meta_value[i]);
        } else {
            cli_print(l->c, "%-44s ", key);
            print_text(l, st.meta_value[i]);
            cli_print(l->c, "\n");
        }
    }
    begin_tensors(l);
    for (uint32_t i = 0; i < st.n_tensors; i++)
        list_tensor(l, &st.tensors[i]);
    safetensors_close(&st);
    return finish(l, err);
}

static void put_count(listing *l, const char *key, uint64_t v)
{
    if (l->c->json)
        json_put_u64(&l->o, key, v);
    else
        cli_print(l->c, "%-44s %llu\n", key, (unsigned long long)v);
}

static void put_text(listing *l, const char *key, const char *v)
{
    if (l->c->json)
        json_put_str(&l->o, key, str_of(v));
    else
        cli_print(l->c, "%-44s %s\n", key, v);
}

static om_status inspect_model(listing *l, const char *path, om_err *err)
{
    llm_model *m = NULL;
    om_model_info i;
    TRY(llm_open(path, &m, err));
    om_model_describe(m, &i);
    begin(l, os_is_dir(path) ? "Hugging Face folder" : "llama2.c checkpoint");
    put_text(l, "family", i.family);
    put_count(l, "vocabulary", i.vocab);
    put_count(l, "embedding width", i.dim);
    put_count(l, "blocks", i.layers);
    put_count(l, "heads", i.heads);
    put_count(l, "kv heads", i.kv_heads);
    put_count(l, "head width", i.head_dim);
    put_count(l, "feed-forward width", i.ffn);
    put_count(l, "context", i.context);
    put_text(l, "tokenizer", i.has_tokenizer ? "found" : "none");
    put_text(l, "chat template", i.chat_template ? i.chat_template : "none");
    begin_tensors(l);
    for (uint32_t n = 0; n < m->n_weight; n++) {
        const nn_weight *w = &m->weight[n];
        tensor t = {.name = str_of(w->name), .type = w->type, .n_dims = w->rows > 1 ? 2 : 1,
                    .dim = {w->rows, w->cols, 1, 1}};
        if (w->rows == 1)
            t.dim[0] = w->cols;
        (void)tensor_measure(t.type, t.dim, t.n_dims, &t.bytes);
        list_tensor(l, &t);
    }
    llm_close(m);
    return finish(l, err);
}

static om_status of_file(om_status s, const char *path, om_err *err)
{
    return s == OM_OK ? s : fail_in(err, s, path);
}

static om_status run(cli *c, om_err *err)
{
    listing l = {.c = c};
    os_map map;
    const char *path = c->operand[0];
    if (os_is_dir(path))
        return inspect_model(&l, path, err);
    TRY(os_map_open(path, &map, err));
    om_status s;
    if (map.n >= 4 && memcmp(map.p, "GGUF", 4) == 0)
        s = of_file(inspect_gguf(&l, &map, err), path, err);
    else if (str_ends(str_of(path), ".safetensors"))
        s = of_file(inspect_safetensors(&l, &map, err), path, err);
    else
        s = inspect_model(&l, path, err);
    os_map_close(&map);
    return s;
}

const command command_inspect = {
    .name = "inspect", .summary = "what is in a model file: metadata, tensors, sizes",
    .operands = "FILE", .min_operands = 1, .max_operands = 1, .run = run,
    .details = "FILE is a .gguf or .safetensors file, a Hugging Face folder or a llama2.c\n"
               "checkpoint.\n\n"
               "  octomil inspect model.gguf --json\n",
};
