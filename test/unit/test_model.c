/* test_model.c - opening models: what is refused and how, views and copies, types on
 * export, names, and every allocation failing once.  Laws on the numbers: test_arch. */
#include "test.h"

#include "llm/model.h"
#include "os/os.h"

#define CASE(name) OM_SOURCE_DIR "/test/golden/arch/" name

static llm_model *open_ok(test *t, const char *path)
{
    llm_model *m = NULL;
    om_err err = {0};
    CHECK_OK(t, llm_open(path, &m, &err), err);
    return m;
}

/* ---- what a file says ---------------------------------------------------------------- */

static void describes(test *t)
{
    llm_model *m = open_ok(t, CASE("llama3"));
    CHECK(t, m->arch == llm_arch_find(STR("llama")) && m->arch == llm_arch_find(STR("mistral")));
    CHECK(t, !llm_arch_find(STR("llam")) && !llm_arch_find(STR("")));
    CHECK_INT(t, m->h.head_dim, 16);
    CHECK(t, m->h.rope.factors != NULL && m->h.rope.neox && !m->h.tied);
    CHECK_NEAR(t, m->h.rope.factors[0], 1, 1e-6);
    CHECK_NEAR(t, m->h.rope.factors[7], 8, 1e-5);
    nn_weight *q = llm_weight(m, "blk.1.attn_q.weight");
    CHECK(t, q && q == m->layer[1].q && q->rows == 32 && q->cols == 32);
    CHECK(t, !llm_weight(m, "blk.2.attn_q.weight") && m->output != m->embed);
    llm_close(m);
    m = open_ok(t, CASE("mistral"));
    CHECK_INT(t, m->h.window, 4);
    CHECK_INT(t, m->layer[0].q->type, DTYPE_F16);
    CHECK_INT(t, m->layer[0].attn_norm->type, DTYPE_F32);
    llm_close(m);
    m = open_ok(t, CASE("qwen2"));
    CHECK_INT(t, m->h.window, 0); /* stated but not used */
    CHECK(t, m->layer[0].q_b && !m->layer[0].o_b);
    llm_close(m);
    m = open_ok(t, CASE("qwen3"));
    CHECK(t, m->h.head_dim == 16 && m->layer[0].q->rows == 64 && m->output == m->embed);
    llm_close(m);
    m = open_ok(t, CASE("gpt2"));
    CHECK(t, m->pos_embed && m->h.tied && m->layer[1].q_b && m->h.ffn == 128);
    llm_close(m);
}

/* ---- export -------------------------------------------------------------------------- */

static void writes_types(test *t)
{
    om_err err = {0};
    char path[512];
    snprintf(path, sizeof(path), "%s/smollm.gguf", test_temp_dir());
    llm_model *m = open_ok(t, CASE("smollm")), *g; /* dim 48, ffn 96 */
    CHECK_OK(t, llm_write_gguf(m, path, DTYPE_Q8_0, NULL, NULL, &err), err);
    g = open_ok(t, path);
    CHECK_INT(t, llm_weight(g, "blk.0.ffn_down.weight")->type, DTYPE_Q8_0); /* 96 = 3 x 32 */
    CHECK_INT(t, llm_weight(g, "blk.0.ffn_up.weight")->type, DTYPE_F16);   /* 48 is not */
    CHECK_INT(t, llm_weight(g, "blk.0.ffn_norm.weight")->type, DTYPE_F32);
    CHECK(t, g->h.tied && !llm_weight(g, "output.weight") && !g->h.rope.neox);
    CHECK(t, str_is(g->name, "smollm"));
    llm_close(g);
    CHECK_OK(t, llm_write_gguf(m, path, DTYPE_COUNT, NULL, NULL, &err), err);
    g = open_ok(t, path);
    CHECK_INT(t, llm_weight(g, "blk.0.ffn_up.weight")->type, DTYPE_BF16);
    const nn_weight *a = m->layer[2].down, *b = g->layer[2].down;
    CHECK(t, memcmp(a->data, b->data, (size_t)a->rows * a->cols * 2) == 0);
    llm_close(g);
    CHECK_INT(t, llm_write_gguf(m, path, DTYPE_I32, NULL, NULL, &err), OM_EUNSUPPORTED);
    CHECK_INT(t, llm_write_gguf(m, "/nowhere/x.gguf", DTYPE_F32, NULL, NULL, &err),
              OM_ENOTFOUND);
    llm_close(m);
}

/* What is written is the model as it runs: W + scale B A. */
static void folds_adapters(test *t)
{
    om_err err = {0};
    char path[512];
    float a[2 * 32], b[32 * 2];
    snprintf(path, sizeof(path), "%s/folded.gguf", test_temp_dir());
    llm_model *m = open_ok(t, CASE("qwen2"));
    nn_weight *w = m->layer[1].v;
    CHECK(t, w->rows == 16 && w->cols == 32 && w->type == DTYPE_F32);
    for (int i = 0; i < 64; i++) {
        a[i] = (float)(i % 7) - 3;
        b[i] = (float)(i % 5) - 2;
    }
    nn_lowrank l = {.rank = 2, .scale = 0.5f, .a = a, .b = b};
    w->lora = &l;
    CHECK_OK(t, llm_write_gguf(m, path, DTYPE_F32, NULL, NULL, &err), err);
    llm_model *g = open_ok(t, path);
    const float *before = w->data, *after = g->layer[1].v->data;
    for (uint32_t r = 0; r < 16; r++)
        for (uint32_t c = 0; c < 32; c++)
            CHECK_NEAR(t, after[r * 32 + c],
                       before[r * 32 + c] + 0.5f * (b[r * 2] * a[c] + b[r * 2 + 1] * a[32 + c]),
                       1e-5);
    w->lora = NULL;
    llm_close(g);
    llm_close(m);
}

/* ---- hostile files ------------------------------------------------------------------- */

/* The llama3 case as GGUF with one key changed (or one tensor left out). */
static void write_changed(test *t, const char *path, const char *key, const double *value,
                          const char *text, const char *without)
{
    char good[512];
    om_err err = {0};
    os_map map;
    gguf g;
    gguf_writer *w = NULL;
    snprintf(good, sizeof(good), "%s/good.gguf", test_temp_dir());
    if (!os_exists(good)) {
        llm_model *m = open_ok(t, CASE("llama3"));
        CHECK_OK(t, llm_write_gguf(m, good, DTYPE_F32, NULL, NULL, &err), err);
        llm_close(m);
    }
    CHECK_OK(t, os_map_open(good, &map, &err), err);
    CHECK_OK(t, gguf_open(map.p, map.n, &g, &err), err);
    CHECK_OK(t, gguf_writer_open(path, &w, &err), err);
    for (uint32_t i = 0; i < g.n_kv; i++)
        if (!key || !str_is(g.kv[i].key, key))
            gguf_put_kv(w, &g.kv[i]);
    if (key && text)
        gguf_put_str(w, key, str_of(text));
    else if (key && *value == floor(*value))
        gguf_put_u64(w, key, (uint64_t)*value);
    else if (key)
        gguf_put_f32(w, key, (float)*value);
    for (uint32_t i = 0; i < g.n_tensors; i++)
        if (!without || !str_is(g.tensors[i].name, without))
            gguf_put_tensor_info(w, &g.tensors[i]);
    CHECK_OK(t, gguf_begin_data(w, &err), err);
    for (uint32_t i = 0; i < g.n_tensors; i++)
        if (!without || !str_is(g.tensors[i].name, without))
            CHECK_OK(t, gguf_write_data(w, g.tensors[i].data, g.tensors[i].bytes, &err), err);
    CHECK_OK(t, gguf_writer_commit(w, &err), err);
    gguf_close(&g);
    os_map_close(&map);
}

static void refuses_gguf(test *t)
{
    static const struct {
        const char *key;
        double value;
        const char *text;
        om_status want;
        const char *says;
    } row[] = {
        {"llama.block_count", 1e9, NULL, OM_EFORMAT, "block count"},
        {"llama.block_count", 0, NULL, OM_EFORMAT, "block count"},
        {"llama.block_count", 3, NULL, OM_EFORMAT, "'blk.2.attn_norm.weight' is missing"},
        {"llama.block_count", 18446744073709549568.0, NULL, OM_EFORMAT, "block count"},
        {"llama.embedding_length", 2147483648.0, NULL, OM_EFORMAT, "embedding width"},
        {"llama.embedding_length", 64, NULL, OM_EFORMAT, "expected"},
        {"llama.attention.head_count", 0, NULL, OM_EFORMAT, "head"},
        {"llama.attention.head_count", 3, NULL, OM_EFORMAT, "multiple"},
        {"llama.attention.head_count_kv", 0, NULL, OM_EFORMAT, "kv head"},
        {"llama.attention.head_count_kv", 3, NULL, OM_EFORMAT, "evenly"},
        {"llama.attention.key_length", 0, NULL, OM_EFORMAT, "width"},
        {"llama.attention.key_length", 4294967296.0, NULL, OM_EFORMAT, "width"},
        {"llama.feed_forward_length", 65, NULL, OM_EFORMAT, "65 x 32"},
        {"llama.context_length", 0, NULL, OM_EFORMAT, "context"},
        {"llama.rope.dimension_count", 7, NULL, OM_EFORMAT, "even"},
        {"llama.rope.dimension_count", 18, NULL, OM_EFORMAT, "head width"},
        {"llama.rope.dimension_count", 8, NULL, OM_EFORMAT, "rope_freqs"},
        {"llama.rope.freq_base", -1.5, NULL, OM_EFORMAT, "rope base"},
        {"llama.rope.freq_base", (double)NAN, NULL, OM_EFORMAT, "rope base"},
        {"llama.attention.layer_norm_rms_epsilon", (double)NAN, NULL, OM_EFORMAT, "epsilon"},
        {"llama.rope.scaling.type", 0, "magic", OM_EUNSUPPORTED, "'magic'"},
        {"general.architecture", 0, "lama", OM_EUNSUPPORTED, "llama"},
    };
    char path[512];
    snprintf(path, sizeof(path), "%s/bad.gguf", test_temp_dir());
    for (size_t i = 0; i < countof(row); i++) {
        llm_model *m = NULL;
        om_err err = {0};
        write_changed(t, path, row[i].key, &row[i].value, row[i].text, NULL);
        CHECK_INT(t, llm_open(path, &m, &err), row[i].want);
        if (!strstr(err.msg, row[i].says))
            test_fail(t, __FILE__, __LINE__, "%s = %g says: %s", row[i].key, row[i].value,
                      err.msg);
        CHECK(t, m == NULL);
    }
    llm_model *m = NULL;
    om_err err = {0};
    write_changed(t, path, NULL, NULL, NULL, "blk.1.ffn_up.weight");
    CHECK_INT(t, llm_open(path, &m, &err), OM_EFORMAT);
    CHECK(t, strstr(err.msg, "'blk.1.ffn_up.weight'") != NULL);
    write_changed(t, path, NULL, NULL, NULL, "output.weight"); /* absent: tied */
    m = open_ok(t, path);
    CHECK(t, m && m->h.tied && m->output == m->embed);
    llm_close(m);
}

static void copy_file(test *t, const char *from, const char *dir, const char *name)
{
    char path[512];
    om_err err = {0};
    buf b = {0};
    CHECK_OK(t, os_read_file(from, 1 << 20, &b, &err), err);
    CHECK_OK(t, os_join(path, sizeof(path), dir, name), err);
    CHECK_OK(t, os_write_file_atomic(path, b.data, b.len, &err), err);
    buf_free(&b);
}

static void refuses_folder(test *t)
{
    static const struct {
        const char *config, *says;
        om_status want;
    } row[] = {
        {"{", "config.json", OM_EFORMAT},
        {"[]", "model_type", OM_EUNSUPPORTED},
        {"{\"model_type\":\"bert\"}", "'bert'", OM_EUNSUPPORTED},
        {"{\"model_type\":\"llama\"}", "vocabulary", OM_EFORMAT},
        {"{\"model_type\":\"llama\",\"vocab_size\":2147483648,\"hidden_size\":32,"
         "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"intermediate_size\":64,"
         "\"max_position_embeddings\":64}", "vocabulary", OM_EFORMAT},
        {"{\"model_type\":\"llama\",\"vocab_size\":128,\"hidden_size\":32,"
         "\"num_hidden_layers\":-2,\"num_attention_heads\":2,\"intermediate_size\":64,"
         "\"max_position_embeddings\":64}", "block count", OM_EFORMAT},
        {"{\"model_type\":\"llama\",\"vocab_size\":128,\"hidden_size\":32,"
         "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"intermediate_size\":64,"
         "\"max_position_embeddings\":64,\"hidden_act\":\"gelu\"}", "'gelu'",
         OM_EUNSUPPORTED},
        {"{\"model_type\":\"llama\",\"vocab_size\":128,\"hidden_size\":32,"
         "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"intermediate_size\":64,"
         "\"max_position_embeddings\":64,\"rope_scaling\":{\"type\":\"longrope\"}}",
         "'longrope'", OM_EUNSUPPORTED},
        {"{\"model_type\":\"llama\",\"vocab_size\":127,\"hidden_size\":32,"
         "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
         "\"intermediate_size\":64,\"max_position_embeddings\":64}", "expected 127 x 32",
         OM_EFORMAT},
        {"{\"model_type\":\"qwen3\",\"vocab_size\":128,\"hidden_size\":32,"
         "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
         "\"intermediate_size\":64,\"max_position_embeddings\":64}", "q_norm", OM_EFORMAT},
    };
    char dir[512], path[600];
    snprintf(dir, sizeof(dir), "%s/folder", test_temp_dir());
    om_err err = {0};
    llm_model *m = NULL;
    CHECK_OK(t, os_mkdirs(dir, &err), err);
    CHECK_INT(t, llm_open(dir, &m, &err), OM_ENOTFOUND);
    copy_file(t, CASE("llama3/model.safetensors"), dir, "model.safetensors");
    snprintf(path, sizeof(path), "%s/config.json", dir);
    for (size_t i = 0; i < countof(row); i++) {
        CHECK_OK(t, os_write_file_atomic(path, row[i].config, strlen(row[i].config), &err), err);
        CHECK_INT(t, llm_open(dir, &m, &err), row[i].want);
        if (!strstr(err.msg, row[i].says))
            test_fail(t, __FILE__, __LINE__, "config %zu says: %s", i, err.msg);
    }
    copy_file(t, CASE("llama3/config.json"), dir, "config.json");
    m = open_ok(t, dir);
    llm_close(m);
    static const char reach[] = "{\"weight_map\":{\"a\":\"../x.safetensors\"}}";
    snprintf(path, sizeof(path), "%s/model.safetensors.index.json", dir);
    CHECK_OK(t, os_write_file_atomic(path, reach, strlen(reach), &err), err);
    CHECK_INT(t, llm_open(dir, &m, &err), OM_EFORMAT);
    CHECK(t, strstr(err.msg, "../x.safetensors") != NULL);
}

static void refuses_other(test *t)
{
    char path[512];
    om_err err = {0};
    llm_model *m = NULL;
    snprintf(path, sizeof(path), "%s/x.bin", test_temp_dir());
    CHECK_INT(t, llm_open("/nowhere/model.gguf", &m, &err), OM_ENOTFOUND);
    CHECK_OK(t, os_write_file_atomic(path, "", 0, &err), err);
    CHECK(t, llm_open(path, &m, &err) != OM_OK && !m);
    CHECK_OK(t, os_write_file_atomic(path, "GGUF", 4, &err), err);
    CHECK(t, llm_open(path, &m, &err) != OM_OK && !m);
    CHECK_OK(t, os_write_file_atomic(path, "hello, world, this is no model", 30, &err), err);
    CHECK(t, llm_open(path, &m, &err) != OM_OK && !m);
}

/* Random bytes changed in the header of a good file: refused, or it runs and nothing is
 * read out of bounds (the sanitizers watch). */
static void damaged_gguf(test *t)
{
    char good[512], path[512];
    om_err err = {0};
    buf b = {0};
    kern k;
    int opened = 0, refused = 0;
    kern_init(&k, 0);
    snprintf(good, sizeof(good), "%s/whole.gguf", test_temp_dir());
    snprintf(path, sizeof(path), "%s/damaged.gguf", test_temp_dir());
    llm_model *m = open_ok(t, CASE("qwen3"));
    CHECK_OK(t, llm_write_gguf(m, good, DTYPE_F16, NULL, NULL, &err), err);
    llm_close(m);
    CHECK_OK(t, os_read_file(good, 1 << 20, &b, &err), err);
    rng r = rng_for(1, 2, 3, 4);
    for (int i = 0; i < 400 && b.len > 2048; i++) {
        uint8_t kept[2048];
        memcpy(kept, b.data, sizeof(kept));
        for (uint32_t n = 1 + i % 2; n-- > 0;)
            b.data[4 + rng_below(&r, 2044)] ^= (uint8_t)(1u << rng_below(&r, 8));
        CHECK_OK(t, os_write_file_atomic(path, b.data, b.len, &err), err);
        memcpy(b.data, kept, sizeof(kept));
        m = NULL;
        om_status s = llm_open(path, &m, &err);
        CHECK(t, (s == OM_OK) == (m != NULL));
        llm_session *q = NULL;
        const float *logits;
        const int32_t ids[] = {1, 2, 3};
        llm_session_args a = {.context = 8, .k = &k};
        if (m && llm_session_open(m, &a, &q, &err) == OM_OK)
            (void)llm_eval(q, ids, 3, &logits, &err);
        llm_session_close(q);
        llm_close(m);
        opened += s == OM_OK;
        refused += s != OM_OK;
    }
    CHECK(t, opened > 10 && refused > 10); /* both ways were taken */
    buf_free(&b);
}

/* ---- running out of memory ----------------------------------------------------------- */

#ifdef OM_FAULTS
static void try_all(test *t, const char *path, const char *out, om_status *s)
{
    llm_model *m = NULL;
    om_err err = {0};
    kern k;
    kern_init(&k, 0);
    *s = llm_open(path, &m, &err);
    if (*s == OM_OK)
        *s = llm_write_gguf(m, out, DTYPE_F16, NULL, NULL, &err);
    if (*s == OM_OK) {
        llm_session *q = NULL;
        const float *logits;
        int32_t id = 1;
        *s = llm_session_open(m, &(llm_session_args){.context = 8, .k = &k}, &q, &err);
        if (*s == OM_OK)
            *s = llm_eval(q, &id, 1, &logits, &err);
        llm_session_close(q);
    }
    CHECK(t, *s == OM_OK || (*s == OM_ENOMEM && err.msg[0]));
    llm_close(m);
}

static void every_allocation(test *t)
{
    static const char *const paths[] = {CASE("gpt2"), CASE("mistral")};
    char out[512];
    snprintf(out, sizeof(out), "%s/oom.gguf", test_temp_dir());
    for (size_t i = 0; i < countof(paths); i++) {
        om_status s = OM_ENOMEM;
        for (long n = 1; s != OM_OK && n < 5000; n++) {
            mem_fail_at(n);
            try_all(t, paths[i], out, &s);
            mem_fail_at(0);
        }
        CHECK_INT(t, s, OM_OK);
    }
    om_status s = OM_ENOMEM; /* the file written last */
    for (long n = 1; s != OM_OK && n < 5000; n++) {
        char again[512];
        snprintf(again, sizeof(again), "%s/again.gguf", test_temp_dir());
        mem_fail_at(n);
        try_all(t, out, again, &s);
        mem_fail_at(0);
    }
    CHECK_INT(t, s, OM_OK);
}
#else
static void every_allocation(test *t) { test_skip(t, "built without OM_FAULTS"); }
#endif

int main(int argc, char **argv)
{
    static const test_case list[] = {
        {"describes", "hyper-parameters and weights by role", describes},
        {"writes_types", "types on export, fallbacks, bit for bit", writes_types},
        {"folds_adapters", "an export folds adapters in", folds_adapters},
        {"refuses_gguf", "hostile or broken GGUF files", refuses_gguf},
        {"refuses_folder", "hostile or broken folders", refuses_folder},
        {"damaged_gguf", "changed bytes in a header never crash", damaged_gguf},
        {"refuses_other", "what is no model at all", refuses_other},
        {"every_allocation", "the n-th allocation fails, for all n", every_allocation},
        {0},
    };
    return test_main(argc, argv, list);
}
