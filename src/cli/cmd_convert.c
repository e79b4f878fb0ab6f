/* cmd_convert.c - any model as one GGUF file, of the type asked for. */
#include "cli/cli.h"

#include "llm/model.h"

static om_status read_type(const cli *c, dtype *out, om_err *err)
{
    const char *name = cli_str(c, "type");
    const char *names[DTYPE_COUNT + 1] = {NULL};
    size_t n = 0;
    *out = DTYPE_COUNT;
    if (!name)
        return OM_OK;
    for (int t = 0; t < DTYPE_COUNT; t++) {
        const dtype_traits *d = dtype_of((dtype)t);
        if (d && d->pack)
            names[n++] = d->name;
    }
    *out = dtype_find(str_of(name));
    if (*out != DTYPE_COUNT && dtype_of(*out)->pack)
        return OM_OK;
    return fail(err, OM_EARG, "--type %s cannot be written; did you mean %s?", name,
                nearest_name(names, str_of(name)));
}

static om_status run(cli *c, om_err *err)
{
    llm_model *m = NULL;
    dtype type;
    uint64_t bytes = 0;
    char size[24];
    const char *out = c->operand[1];
    TRY(read_type(c, &type, err));
    if (!str_ends(str_of(out), ".gguf"))
        return fail(err, OM_EARG, "'%s' does not end in .gguf, the one format written", out);
    TRY(llm_open_with(c->operand[0], cli_str(c, "tokenizer"), &m, err));
    if (!m->tok)
        cli_note(c, "note: no tokenizer was found; the file will have none");
    om_status s = llm_write_gguf(m, out, type, cli_progress, c, err);
    llm_close(m);
    cli_progress_end(c);
    TRY(s);
    TRY(os_file_size(out, &bytes, err));
    if (!c->json) {
        cli_print(c, "%s: %s\n", out, cli_bytes(size, bytes));
        return OM_OK;
    }
    json_out o = json_to(&c->out);
    json_open_object(&o, NULL);
    json_put_str(&o, "file", str_of(out));
    json_put_u64(&o, "bytes", bytes);
    json_shut(&o, '}');
    cli_print(c, "\n");
    return OM_OK;
}

static const cli_option options[] = {
    {"type", 0, "TYPE", NULL,
     "F32 F16 BF16 Q8_0 Q4_0 Q4_K Q6_K ... (default: as they are)", false},
    {"tokenizer", 0, "FILE", NULL, "tokenizer to put in, for a model that has none", false},
    {0},
};

const command command_convert = {
    .name = "convert", .summary = "any model as one GGUF file",
    .operands = "IN OUT.gguf", .min_operands = 2, .max_operands = 2, .options = options,
    .run = run,
    .details =
        "IN is a .gguf file, a Hugging Face folder or a llama2.c checkpoint.  Norms and\n"
        "biases stay F32; rows whose length a type cannot hold become Q8_0 or F16.\n\n"
        "  octomil convert ./smollm-135m smollm-q4.gguf --type Q4_K\n"
        "  octomil convert stories260K.bin stories.gguf --tokenizer tok512.bin\n",
};
