/* prompt_gguf.c - a trained prompt as a GGUF file: general.type = "adapter", adapter.type =
 * "prompt", and one tensor prompt.weight (tokens, dim). */
#include "adapt/adapt.h"
#include "fmt/gguf.h"

om_status prompt_save_gguf(const trainable *t, const char *path, om_err *err)
{
    gguf_writer *w;
    if (t->mode != TRAIN_PROMPT)
        return fail(err, OM_EARG, "prompt: nothing to save, the training was of weights");
    const trainable_part *p = &t->part[0];
    TRY(gguf_writer_open(path, &w, err));
    gguf_put_str(w, "general.type", STR("adapter"));
    gguf_put_str(w, "general.architecture", str_of(t->model->arch->name));
    gguf_put_str(w, "adapter.type", STR("prompt"));
    gguf_put_tensor_info(w, &(tensor){.name = p->name, .type = DTYPE_F32, .n_dims = 2,
                                      .dim = {p->rows, p->cols, 1, 1}});
    om_status s = gguf_begin_data(w, err);
    if (s == OM_OK)
        s = gguf_write_data(w, t->x, t->n * sizeof(float), err);
    if (s == OM_OK)
        return gguf_writer_commit(w, err);
    gguf_writer_abort(w);
    return s;
}

static om_status load(const gguf *g, llm_model *m, trainable *out, om_err *err)
{
    const tensor *p = gguf_tensor(g, "prompt.weight");
    if (!p || p->n_dims != 2 || p->dim[0] < 1 || p->dim[0] > m->h.context ||
        p->dim[1] != m->h.dim)
        return fail(err, OM_EFORMAT, "prompt: the file has no prompt for a model of width %u "
                                     "and context %u; is it the right base?",
                    m->h.dim, m->h.context);
    TRY(trainable_prompt(m, (uint32_t)p->dim[0], 0, out, err));
    om_status s = tensor_to_f32(p, 0, out->n, out->x, err);
    if (s != OM_OK)
        trainable_close(out);
    return s;
}

om_status prompt_load_gguf(llm_model *m, const char *path, trainable *out, om_err *err)
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
