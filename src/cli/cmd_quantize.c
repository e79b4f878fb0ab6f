/* cmd_quantize.c - a model into a smaller file: which method, which types, what to
 * calibrate on. */
#include "cli/cli.h"

#include "compress/quantize.h"
#include "kern/higgs.h"

typedef struct {
    cli *c;
    llm_model *m;
    quantize_args a;
    calib_args text;
    imatrix im;
    dtype *types;       /* (n_weight) */
    os_map file;        /* the calibration text */
    int32_t *ids;
} job;

static om_status read_method(job *j, om_err *err)
{
    const char *names[32] = {NULL}, *name = cli_str(j->c, "method");
    for (size_t i = 0; quant_methods[i] && i + 1 < countof(names); i++)
        names[i] = quant_methods[i]->name;
    j->a.method = quant_method_find(str_of(name));
    if (j->a.method)
        return OM_OK;
    return fail(err, OM_EARG, "--method %s is not known; did you mean %s?", name,
                nearest_name(names, str_of(name)));
}

/* Rotated types are the business of the method whose --bits give them. */
static bool writes(const quant_method *m, dtype t)
{
    const dtype_traits *d = dtype_of(t);
    return d && (d->pack || (higgs_of(t) && higgs_of(m->of_bits[2])));
}

/* --type, else what --bits means for the method. */
static om_status read_type(job *j, dtype *out, om_err *err)
{
    const char *name = cli_str(j->c, "type");
    uint64_t bits;
    TRY(cli_u64(j->c, "bits", 2, 8, &bits, err));
    if (!name) {
        *out = j->a.method->of_bits[bits];
        if (*out == DTYPE_F32)
            return fail(err, OM_EARG, "--bits %llu: method %s has no such type; see --type",
                        (unsigned long long)bits, j->a.method->name);
        return OM_OK;
    }
    const char *names[DTYPE_COUNT + 1] = {NULL};
    size_t n = 0;
    for (int t = 0; t < DTYPE_COUNT; t++)
        if (writes(j->a.method, (dtype)t))
            names[n++] = dtype_of((dtype)t)->name;
    *out = dtype_find(str_of(name));
    if (writes(j->a.method, *out))
        return OM_OK;
    return fail(err, OM_EARG, "--type %s cannot be written; did you mean %s?", name,
                nearest_name(names, str_of(name)));
}

static bool is_matrix(const job *j, uint32_t i)
{
    const nn_weight *w = &j->m->weight[i];
    return w->rows > 1 && w != j->m->pos_embed;
}

static om_status open_model(job *j, om_err *err)
{
    cli *c = j->c;
    TRY(llm_open_with(c->operand[0], cli_str(c, "tokenizer"), &j->m, err));
    for (uint32_t i = 0; i < j->m->n_weight; i++) {
        const nn_weight *w = &j->m->weight[i];
        if (is_matrix(j, i) && dtype_of(w->type)->block > 1 && !cli_flag(c, "requantize"))
            return fail(err, OM_EARG, "%s: %s is %s already, and errors would add up; start "
                                      "from the original, or say --requantize",
                        c->operand[0], w->name, dtype_of(w->type)->name);
    }
    j->types = mem_array(j->m->n_weight, sizeof(*j->types));
    return j->types ? OM_OK : fail(err, OM_ENOMEM, "quantize: no memory");
}

static om_status open_text(job *j, om_err *err)
{
    cli *c = j->c;
    uint64_t most;
    TRY(cli_u64(c, "calibration-tokens", CALIB_LEAST_TOKENS, 1u << 30, &most, err));
    j->text = (calib_args){.k = &c->kernels, .pool = c->pool, .cancel = c->cancel,
                           .progress = cli_progress, .ctx = c};
    j->a.text = &j->text;
    if (cli_given(c, "imatrix")) {
        TRY(imatrix_read(j->m, cli_str(c, "imatrix"), &j->im, err));
        j->a.im = &j->im;
    }
    if (!cli_given(c, "calibration"))
        return OM_OK;
    TRY(os_map_open(cli_str(c, "calibration"), &j->file, err));
    str text = {(const char *)j->file.p, j->file.n};
    TRY(llm_tokenize(j->m, text, &j->ids, &j->text.n, err));
    j->text.ids = j->ids;
    j->text.n = size_min(j->text.n, (size_t)most);
    if (j->text.n < CALIB_LEAST_TOKENS)
        return fail(err, OM_EARG, "--calibration %s has %zu tokens; at least %d are needed",
                    cli_str(c, "calibration"), j->text.n, CALIB_LEAST_TOKENS);
    return OM_OK;
}

static om_status save_importance(job *j, om_err *err)
{
    const char *path = cli_str(j->c, "save-imatrix");
    if (!path)
        return OM_OK;
    if (!j->text.n)
        return fail(err, OM_EARG, "--save-imatrix needs --calibration FILE");
    if (!j->a.im) {
        TRY(imatrix_measure(j->m, &j->text, &j->im, err));
        j->a.im = &j->im;
    }
    return imatrix_write(&j->im, path, cli_str(j->c, "calibration"), err);
}

static om_status answer(job *j, om_err *err)
{
    cli *c = j->c;
    uint64_t bytes;
    char size[24], memory[24];
    const char *out = c->operand[1];
    TRY(os_file_size(out, &bytes, err));
    if (!c->json) {
        cli_print(c, "%s: %s, %s, peak memory %s\n", out, cli_bytes(size, bytes),
                  j->a.method->name, cli_bytes(memory, os_peak_rss_bytes()));
        return OM_OK;
    }
    json_out o = json_to(&c->out);
    json_open_object(&o, NULL);
    json_put_str(&o, "file", str_of(out));
    json_put_str(&o, "method", str_of(j->a.method->name));
    json_put_u64(&o, "bytes", bytes);
    json_put_u64(&o, "peak_rss_bytes", os_peak_rss_bytes());
    json_shut(&o, '}');
    cli_print(c, "\n");
    return OM_OK;
}

static om_status work(job *j, om_err *err)
{
    dtype type;
    TRY(read_method(j, err));
    TRY(read_type(j, &type, err));
    if (!str_ends(str_of(j->c->operand[1]), ".gguf"))
        return fail(err, OM_EARG, "'%s' does not end in .gguf, the one format written",
                    j->c->operand[1]);
    TRY(open_model(j, err));
    TRY(open_text(j, err));
    TRY(save_importance(j, err));
    for (uint32_t i = 0; i < j->m->n_weight; i++)
        j->types[i] = is_matrix(j, i) ? type : DTYPE_F32;
    j->a.types = j->types;
    j->a.file_type = type;
    TRY(quantize_model(j->m, j->c->operand[1], &j->a, err));
    cli_progress_end(j->c);
    return answer(j, err);
}

static om_status run(cli *c, om_err *err)
{
    job j = {.c = c};
    om_status s = work(&j, err);
    cli_progress_end(c);
    if (j.im.m)
        imatrix_close(&j.im);
    llm_close(j.m);
    mem_free(j.types);
    mem_free(j.ids);
    os_map_close(&j.file);
    return s;
}

static const cli_option options[] = {
    {"method", 'm', "NAME", "kquant", "rtn, kquant, gptq, higgs", false},
    {"bits", 'b', "N", "4", "2 3 4 5 6 8: the method's type of about so many bits", false},
    {"type", 0, "TYPE", NULL, "a tensor type by name, instead of --bits: Q4_K IQ4_XS ...",
     false},
    {"calibration", 'c', "FILE", NULL, "text to measure the layers' inputs on", false},
    {"calibration-tokens", 0, "N", "65536", "at most this many of its tokens", false},
    {"imatrix", 0, "FILE", NULL, "importance matrix to use: GGUF or .dat", false},
    {"save-imatrix", 0, "FILE", NULL, "write the importance matrix measured", false},
    {"requantize", 0, NULL, NULL, "take a model that is quantized already", false},
    {"tokenizer", 0, "FILE", NULL, "tokenizer of a model that has none", false},
    {0},
};

const command command_quantize = {
    .name = "quantize", .summary = "a smaller file of a model, by the best known methods",
    .operands = "MODEL OUT.gguf", .min_operands = 2, .max_operands = 2, .options = options,
    .run = run,
    .details =
        "Norms and biases stay F32; rows whose length a type cannot hold become Q8_0 or\n"
        "F16.  The text of --calibration should be like what the model will read; a few\n"
        "hundred kilobytes do.  OUT appears whole or not at all.\n\n"
        "  octomil quantize model.gguf small.gguf --bits 4\n"
        "  octomil quantize model.gguf small.gguf --method gptq --type Q4_K --calibration text.txt\n",
};
