/* imatrix.c - see imatrix.h. */
#include "compress/imatrix.h"

#include <math.h>
#include <stdio.h>

enum { NAME_BYTES = 96, MAX_ENTRIES = 1 << 18 };

om_status imatrix_new(const llm_model *m, imatrix *out, om_err *err)
{
    *out = (imatrix){.m = m};
    out->mean = mem_array(m->n_weight, sizeof(*out->mean));
    out->rows = mem_array(m->n_weight, sizeof(*out->rows));
    if (out->mean && out->rows)
        return OM_OK;
    imatrix_close(out);
    return fail(err, OM_ENOMEM, "imatrix: no memory");
}

void imatrix_close(imatrix *im)
{
    for (uint32_t i = 0; im->mean && i < im->m->n_weight; i++)
        mem_free(im->mean[i]);
    mem_free(im->mean);
    mem_free(im->rows);
    *im = (imatrix){0};
}

const float *imatrix_of(const imatrix *im, const nn_weight *w)
{
    return im && im->mean ? im->mean[w - im->m->weight] : NULL;
}

om_status imatrix_set(imatrix *im, const nn_weight *w, const float *sum, double rows,
                      om_err *err)
{
    size_t at = (size_t)(w - im->m->weight);
    float *mean = im->mean[at] ? im->mean[at] : mem_array(w->cols, sizeof(*mean));
    if (!mean)
        return fail(err, OM_ENOMEM, "imatrix: no memory for %s", w->name);
    im->n_known += !im->mean[at];
    im->mean[at] = mean;
    im->rows[at] = rows;
    for (uint32_t i = 0; i < w->cols; i++) {
        mean[i] = (float)((double)sum[i] / rows);
        if (!isfinite(mean[i]) || mean[i] < 0)
            return fail(err, OM_EFORMAT, "imatrix: value %u of %s is %g", i, w->name,
                        (double)mean[i]);
    }
    return OM_OK;
}

/* ---- reading ----------------------------------------------------------------------- */

/* The weights an entry speaks of: its own, or the three of a fused q-k-v. */
static om_status take(imatrix *im, str name, const float *sum, uint64_t cols, double rows,
                      om_err *err)
{
    static const char *const fused[] = {"attn_q.weight", "attn_k.weight", "attn_v.weight"};
    bool is_fused = str_ends(name, "attn_qkv.weight");
    for (size_t i = 0; i < (is_fused ? countof(fused) : 1); i++) {
        char text[NAME_BYTES];
        int n = snprintf(text, sizeof(text), "%.*s%s",
                         (int)(is_fused ? name.n - strlen("attn_qkv.weight") : name.n),
                         name.p, is_fused ? fused[i] : "");
        const nn_weight *w = n < NAME_BYTES ? llm_weight(im->m, text) : NULL;
        if (!w)
            continue;
        if (cols != w->cols)
            return fail(err, OM_EFORMAT, "imatrix: %s has %llu columns, the model has %u",
                        text, (unsigned long long)cols, w->cols);
        if (!(rows > 0))
            return fail(err, OM_EFORMAT, "imatrix: %s counts %g rows", text, rows);
        TRY(imatrix_set(im, w, sum, rows, err));
    }
    return OM_OK;
}

static om_status read_gguf(imatrix *im, const os_map *map, om_err *err)
{
    gguf g;
    om_status s = OM_OK;
    TRY(gguf_open(map->p, map->n, &g, err));
    im->window = (uint32_t)gguf_u64(&g, "imatrix.chunk_size", 0);
    im->n_windows = (uint32_t)gguf_u64(&g, "imatrix.chunk_count", 0);
    for (uint32_t i = 0; s == OM_OK && i < g.n_tensors; i++) {
        const tensor *t = &g.tensors[i];
        str name = t->name;
        char counts[NAME_BYTES + 16];
        if (!str_ends(name, ".in_sum2"))
            continue;
        name.n -= strlen(".in_sum2");
        snprintf(counts, sizeof(counts), "%.*s.counts", (int)size_min(name.n, NAME_BYTES),
                 name.p);
        const tensor *c = gguf_tensor(&g, counts);
        if (t->type != DTYPE_F32 || !c || c->type != DTYPE_F32 || tensor_count(c) != 1 ||
            !tensor_count(t))
            s = fail(err, OM_EFORMAT, "imatrix: %.*s is not F32 beside one count",
                     (int)t->name.n, t->name.p);
        float n = 0;
        if (s == OM_OK)
            memcpy(&n, c->data, sizeof(n));
        if (s == OM_OK)
            s = take(im, name, t->data, tensor_count(t), (double)n, err);
    }
    gguf_close(&g);
    return s;
}

/* Values of the older layout are means times calls, so `calls` stands for the rows. */
static om_status read_dat(imatrix *im, const os_map *map, om_err *err)
{
    cursor c = cursor_of(map->p, map->n);
    uint32_t n = cursor_u32(&c);
    if (!c.ok || n > MAX_ENTRIES)
        return fail(err, OM_EFORMAT,
                    "imatrix: neither GGUF nor a .dat of at most %d entries", MAX_ENTRIES);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t length = cursor_u32(&c);
        const uint8_t *name = cursor_take(&c, length);
        uint32_t calls = cursor_u32(&c), cols = cursor_u32(&c);
        const uint8_t *v = cols <= map->n / 4 ? cursor_take(&c, (size_t)cols * 4) : NULL;
        if (!c.ok || !v)
            return fail_at(err, OM_EFORMAT, c.pos, "imatrix: entry %u of %u is cut off", i,
                           n);
        float *sum = mem_array(cols, sizeof(*sum)); /* the file may be unaligned */
        if (!sum)
            return fail(err, OM_ENOMEM, "imatrix: no memory");
        memcpy(sum, v, (size_t)cols * 4);
        str s = {(const char *)name, length};
        om_status st = take(im, s, sum, cols, (double)calls, err);
        mem_free(sum);
        TRY(st);
    }
    return OM_OK;
}

om_status imatrix_read(const llm_model *m, const char *path, imatrix *out, om_err *err)
{
    os_map map;
    TRY(imatrix_new(m, out, err));
    om_status s = os_map_open(path, &map, err);
    if (s == OM_OK) {
        bool is_gguf = map.n >= 4 && memcmp(map.p, "GGUF", 4) == 0;
        s = is_gguf ? read_gguf(out, &map, err) : read_dat(out, &map, err);
        os_map_close(&map);
    }
    if (s == OM_OK && !out->n_known)
        s = fail(err, OM_EFORMAT, "imatrix: %s names no matrix of this model", path);
    if (s != OM_OK)
        imatrix_close(out);
    return s;
}

/* ---- writing ----------------------------------------------------------------------- */

static om_status put_infos(const imatrix *im, gguf_writer *w, om_err *err)
{
    for (uint32_t i = 0; i < im->m->n_weight; i++) {
        const nn_weight *of = &im->m->weight[i];
        char name[NAME_BYTES + 16];
        if (!im->mean[i])
            continue;
        if (strlen(of->name) >= NAME_BYTES)
            return fail(err, OM_ELIMIT, "imatrix: the name %s is too long", of->name);
        snprintf(name, sizeof(name), "%s.in_sum2", of->name);
        gguf_put_tensor_info(
            w, &(tensor){.name = str_of(name), .n_dims = 2, .dim = {1, of->cols, 1, 1}});
        snprintf(name, sizeof(name), "%s.counts", of->name);
        gguf_put_tensor_info(
            w, &(tensor){.name = str_of(name), .n_dims = 2, .dim = {1, 1, 1, 1}});
    }
    return OM_OK;
}

static om_status put_values(const imatrix *im, gguf_writer *w, om_err *err)
{
    TRY(gguf_begin_data(w, err));
    for (uint32_t i = 0; i < im->m->n_weight; i++) {
        if (!im->mean[i])
            continue;
        for (uint32_t c = 0; c < im->m->weight[i].cols; c++) {
            float sum = (float)((double)im->mean[i][c] * im->rows[i]);
            TRY(gguf_write_data(w, &sum, sizeof(sum), err));
        }
        float rows = (float)im->rows[i];
        TRY(gguf_write_data(w, &rows, sizeof(rows), err));
    }
    return OM_OK;
}

om_status imatrix_write(const imatrix *im, const char *path, const char *dataset,
                        om_err *err)
{
    gguf_writer *w;
    str data = str_of(dataset);
    TRY(gguf_writer_open(path, &w, err));
    gguf_put_str(w, "general.type", STR("imatrix"));
    gguf_put_strings(w, "imatrix.datasets", &data, 1);
    gguf_put_u32(w, "imatrix.chunk_count", im->n_windows);
    gguf_put_u32(w, "imatrix.chunk_size", im->window);
    om_status s = put_infos(im, w, err);
    if (s == OM_OK)
        s = put_values(im, w, err);
    if (s == OM_OK)
        return gguf_writer_commit(w, err);
    gguf_writer_abort(w);
    return s;
}
