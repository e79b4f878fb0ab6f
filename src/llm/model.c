/* model.c - opening and closing a model, whatever file it comes in; the table of
 * families. */
#include "llm/model_impl.h"

#include "llm/arch/list.h"

#define X(name) extern const llm_arch arch_##name;
ARCH_LIST(X)
#undef X

const llm_arch *const llm_archs[] = {
#define X(name) &arch_##name,
    ARCH_LIST(X)
#undef X
    NULL,
};

static bool in_list(const char *list, str name)
{
    while (*list) {
        size_t n = strcspn(list, "|");
        if (str_eq(name, (str){list, n}))
            return true;
        list += n + (list[n] == '|');
    }
    return false;
}

const llm_arch *llm_arch_find(str name)
{
    for (size_t i = 0; llm_archs[i]; i++)
        if (str_is(name, llm_archs[i]->name) || in_list(llm_archs[i]->hf_names, name))
            return llm_archs[i];
    return NULL;
}

nn_weight *llm_weight(const llm_model *m, const char *gguf_name)
{
    for (uint32_t i = 0; i < m->n_weight; i++)
        if (strcmp(m->weight[i].name, gguf_name) == 0)
            return &m->weight[i];
    return NULL;
}


om_status llm_take_tokenizer(llm_model *m, const char *path, om_err *err)
{
    llm_owned *o = owned_by(m);
    gguf g;
    om_status s;
    TRY(os_map_open(path, &o->tok_map, err));
    o->has_tok_map = true;
    const uint8_t *p = o->tok_map.p;
    size_t n = o->tok_map.n;
    if (str_ends(str_of(path), ".json")) {
        s = tokenizer_from_hf_json(p, n, &m->tok, err);
    } else if (n >= 4 && memcmp(p, "GGUF", 4) == 0) {
        TRY(gguf_open(p, n, &g, err));
        s = tokenizer_from_gguf(&g, &m->tok, err);
        gguf_close(&g);
    } else {
        s = tokenizer_from_llama2c(p, n, m->h.vocab, &m->tok, err);
    }
    return s == OM_OK ? s : fail_in(err, s, path);
}

om_status llm_need_tokenizer(const llm_model *m, om_err *err)
{
    if (m->tok)
        return OM_OK;
    return fail(err, OM_ENOTFOUND,
                "model: %.*s came without a tokenizer; name its file with the tokenizer "
                "option", (int)size_min(m->name.n, 80), m->name.p);
}

om_status llm_tokenize(const llm_model *m, str text, int32_t **ids, size_t *n, om_err *err)
{
    size_t cap = text.n / 2 + 16; /* grown once when a text is all rare bytes */
    *ids = NULL;
    *n = 0;
    TRY(llm_need_tokenizer(m, err));
    for (;;) {
        *ids = mem_array(cap, sizeof(**ids));
        if (!*ids)
            return fail(err, OM_ENOMEM, "model: no memory for %zu tokens", cap);
        om_err why = {0}; /* a try that is too short is no failure of the call */
        om_status s = tokenizer_encode(m->tok, text, true, false, *ids, cap, n, &why);
        if (s == OM_OK)
            return s;
        mem_free(*ids);
        *ids = NULL;
        if (*n <= cap)
            return fail(err, s, "%s", why.msg);
        cap = *n;
    }
}

/* ---- open and close ------------------------------------------------------------------ */

static om_status read_magic(const char *path, uint8_t magic[4], om_err *err)
{
    os_map map;
    TRY(os_map_open(path, &map, err));
    size_t n = map.n;
    memset(magic, 0, 4);
    if (n)
        memcpy(magic, map.p, size_min(n, 4));
    os_map_close(&map);
    if (n == 0)
        return fail(err, OM_EFORMAT, "model: '%s' is empty; bring a whole model file", path);
    if (str_ends(str_of(path), ".gguf") && memcmp(magic, "GGUF", 4) != 0)
        return fail(err, OM_EFORMAT,
                    "model: '%s' does not begin with the bytes GGUF: it is another kind of "
                    "file, or damaged; fetch it again",
                    path);
    return OM_OK;
}

static om_status open_into(llm_model *m, const char *path, const char *tok, om_err *err)
{
    uint8_t magic[4];
    bool own = tok == NULL;
    if (os_is_dir(path)) {
        TRY(llm_open_hf(m, path, own, err));
    } else {
        TRY(read_magic(path, magic, err));
        if (memcmp(magic, "GGUF", 4) == 0)
            TRY(llm_open_gguf(m, path, own, err));
        else
            TRY(llm_open_llama2c(m, path, own, err));
    }
    if (tok)
        TRY(llm_take_tokenizer(m, tok, err));
    if (m->chat_jinja.n)
        m->chat = chat_template_find(m->chat_jinja);
    return OM_OK;
}

static om_status set_name(llm_model *m, const char *path, om_err *err)
{
    if (m->name.n)
        return OM_OK;
    size_t end = strlen(path), beg;
    while (end > 1 && path[end - 1] == '/')
        end--;
    for (beg = end; beg > 0 && path[beg - 1] != '/'; beg--)
        ;
    char *z = owned_by(m)->name_text = mem_strdup((str){path + beg, end - beg});
    if (!z)
        return fail(err, OM_ENOMEM, "model: no memory for a name");
    m->name = str_of(z);
    return OM_OK;
}

om_status llm_open_with(const char *path, const char *tok, llm_model **out, om_err *err)
{
    llm_model *m = mem_alloc(sizeof(*m));
    llm_owned *o = mem_alloc(sizeof(*o));
    *out = NULL;
    if (!m || !o) {
        mem_free(m);
        mem_free(o);
        return fail(err, OM_ENOMEM, "model: no memory to open %s", path);
    }
    m->owned_ = o;
    om_status s = open_into(m, path, tok, err);
    if (s == OM_OK)
        s = set_name(m, path, err);
    if (s != OM_OK) {
        llm_close(m);
        return s;
    }
    *out = m;
    return OM_OK;
}

om_status llm_open(const char *path, llm_model **out, om_err *err)
{
    return llm_open_with(path, NULL, out, err);
}

void llm_close(llm_model *m)
{
    if (!m)
        return;
    llm_owned *o = owned_by(m);
    if (m->tok)
        tokenizer_close(m->tok);
    for (uint32_t i = 0; i < o->n_copies; i++)
        mem_free(o->copy[i]);
    if (o->has_gguf)
        gguf_close(&o->g);
    if (o->has_l2c)
        llama2c_close(&o->l2c);
    for (uint32_t i = 0; i < o->n_st; i++)
        safetensors_close(&o->st[i]);
    for (uint32_t i = 0; i < o->n_maps; i++)
        os_map_close(&o->map[i]);
    if (o->has_tok_map)
        os_map_close(&o->tok_map);
    mem_free(o->map);
    mem_free(o->st);
    mem_free(o->names);
    mem_free(o->copy);
    mem_free(o->factors);
    mem_free(o->weights);
    mem_free(o->layers);
    mem_free(o->chat_text);
    mem_free(o->name_text);
    mem_free(o->path);
    mem_free(o);
    mem_free(m);
}
