/* cmd_quantize.c - a model into a smaller file: which method, which types, what to
 * calibrate on. */
#include "cli/cli.h"

#include "compress/allocate.h"
#include "compress/quantize.h"
#include "kern/higgs.h"

typedef struct {
    cli *c;
    llm_model *m;
    quantize_args a;
    calib_args text;
    imatrix im;
    dtype *types; /* (n_weight) */
    os_map file;  /* the calibration text */
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
            return fail(err, OM_EARG,
                        "%s: %s is %s already, and errors would add up; start "
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
    j->text = (calib_args){.k = &c->kernels,
                           .pool = c->pool,
                           .cancel = c->cancel,
                           .progress = cli_progress,
                           .ctx = c};
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

/* "500mb", "1.5g", or bytes. */
static om_status read_size(const char *text, uint64_t *out, om_err *err)
{
    static const struct {
        const char *unit;
        double bytes;
    } units[] = {{"gb", 1e9}, {"mb", 1e6}, {"kb", 1e3}, {"g", 1e9}, {"m", 1e6}, {"k", 1e3}};
    str s = str_of(text);
    double scale = 1, v;
    for (size_t i = 0; i < countof(units) && scale < 2; i++)
        if (str_ends(s, units[i].unit)) {
            s.n -= strlen(units[i].unit);
            scale = units[i].bytes;
        }
    if (!str_f64(s, &v) || !(v * scale >= 1 && v * scale < 1e15))
        return fail(err, OM_EARG, "--target-size %s is not a size; say 500mb or 1.5gb",
                    text);
    *out = (uint64_t)(v * scale);
    return OM_OK;
}

/* What a file of this model takes beside its matrices: header, vectors, padding. */
static om_status beside_matrices(const job *j, uint64_t *out, om_err *err)
{
    uint64_t file = 0, packed = 0;
    const char *path = j->c->operand[0];
    if (os_is_dir(path))
        return fail(err, OM_EARG,
                    "--target-size needs a model in one file; octomil convert "
                    "makes one of %s",
                    path);
    TRY(os_file_size(path, &file, err));
    for (uint32_t i = 0; i < j->m->n_weight; i++) {
        size_t row = 0;
        dtype_row_bytes(j->m->weight[i].type, j->m->weight[i].cols, &row);
        if (is_matrix(j, i))
            packed += (uint64_t)row * j->m->weight[i].rows;
    }
    *out = (file > packed ? file - packed : 0) + 1024; /* keys this program adds */
    return OM_OK;
}

/* The types that fit --target-size and lose least. */
static om_status fit_size(job *j, om_err *err)
{
    uint64_t target = 0, beside = 0, least = 0;
    TRY(read_size(cli_str(j->c, "target-size"), &target, err));
    TRY(beside_matrices(j, &beside, err));
    if (!j->text.n)
        return fail(err, OM_EARG,
                    "--target-size needs --calibration FILE: a mix of types is "
                    "chosen by what errors in each tensor cost there");
    double *factor = mem_array(j->m->n_weight, sizeof(*factor));
    om_status s = factor ? sensitivity(j->m, &j->text, factor, err)
                         : fail(err, OM_ENOMEM, "quantize: no memory");
    cli_progress_end(j->c);
    if (s == OM_OK)
        s = allocate_types(j->m, j->a.method, factor, target > beside ? target - beside : 0,
                           &j->c->kernels, j->c->pool, j->types, &least, err);
    if (s == OM_EARG)
        s = fail(err, OM_EARG,
                 "--target-size %s: the smallest file %s can make takes %llu "
                 "bytes",
                 cli_str(j->c, "target-size"), j->a.method->name,
                 (unsigned long long)(least + beside));
    mem_free(factor);
    return s;
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
    if (cli_given(j->c, "target-size"))
        TRY(fit_size(j, err));
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
    {"target-size", 's', "SIZE", NULL,
     "500mb: a type for every tensor, by what errors in it "
     "cost, so that the file fits",
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
    .name = "quantize",
    .summary = "a smaller file of a model, by the best known methods",
    .operands = "MODEL OUT.gguf",
    .min_operands = 2,
    .max_operands = 2,
    .options = options,
    .run = run,
    .details =
        "Norms and biases stay F32; rows whose length a type cannot hold become Q8_0 or\n"
        "F16.  The text of --calibration should be like what the model will read; a few\n"
        "hundred kilobytes do.  OUT appears whole or not at all.\n\n"
        "  octomil quantize model.gguf small.gguf --bits 4\n"
        "  octomil quantize model.gguf small.gguf --method gptq --type Q4_K --calibration "
        "text.txt\n"
        "  octomil quantize model.gguf small.gguf --method higgs --target-size 1mb "
        "--calibration text.txt\n",
};
