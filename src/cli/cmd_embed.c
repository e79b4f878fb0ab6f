/* cmd_embed.c - `octomil embed`: texts as vectors, and how alike they are.
 *
 * A vector is the mean of a model's last hidden states, scaled to length 1, so the product
 * of two is the cosine of their angle. */
#include "cli/cli.h"

#include "octomil/run.h"

#include <stdio.h>

enum { TEXT_MAX = 64 << 20, TEXTS = 1 << 16 };

typedef struct {
    cli *c;
    om_model *m;
    om_session *s;
    uint32_t dim;
    char *text[TEXTS];
    size_t n;
    float *v; /* (n, dim) */
} embedder;

static om_status add(embedder *e, str text, om_err *err)
{
    if (e->n == TEXTS)
        return fail(err, OM_ELIMIT, "embed: more than %d texts", TEXTS);
    e->text[e->n] = mem_strdup(text);
    return e->text[e->n++] ? OM_OK : fail(err, OM_ENOMEM, "embed: no memory");
}

/* The operands, or the lines of standard input. */
static om_status gather(embedder *e, om_err *err)
{
    const cli *c = e->c;
    char *line = mem_alloc(TEXT_MAX);
    om_status s = line ? OM_OK : fail(err, OM_ENOMEM, "embed: no memory");
    for (int i = 1; i < c->n_operands && s == OM_OK; i++)
        s = add(e, str_of(c->operand[i]), err);
    while (s == OM_OK && c->n_operands == 1 && fgets(line, TEXT_MAX, stdin)) {
        str text = str_of(line);
        text.n -= text.n && line[text.n - 1] == '\n';
        if (text.n)
            s = add(e, text, err);
    }
    mem_free(line);
    return s;
}

static om_status embed_all(embedder *e, om_err *err)
{
    e->v = mem_array(e->n ? e->n : 1, e->dim * sizeof(float));
    if (!e->v)
        return fail(err, OM_ENOMEM, "embed: no memory for %zu vectors", e->n);
    for (size_t i = 0; i < e->n; i++) {
        TRY(om_embed(e->s, e->text[i], e->v + i * e->dim, err));
        cli_progress(e->c, "embedding", "texts", i + 1, e->n);
    }
    cli_progress_end(e->c);
    return OM_OK;
}

static void print_json(embedder *e)
{
    json_out o = json_to(&e->c->out);
    json_open_object(&o, NULL);
    json_put_u64(&o, "dim", e->dim);
    json_open_array(&o, "embeddings");
    for (size_t i = 0; i < e->n; i++) {
        json_open_array(&o, NULL);
        for (uint32_t k = 0; k < e->dim; k++)
            json_put_f64(&o, NULL, (double)e->v[i * e->dim + k]);
        json_shut(&o, ']');
    }
    json_shut(&o, ']');
    json_shut(&o, '}');
    cli_write(e->c, STR("\n"));
}

static double cosine(const embedder *e, size_t a, size_t b)
{
    double sum = 0;
    for (uint32_t k = 0; k < e->dim; k++)
        sum += (double)e->v[a * e->dim + k] * (double)e->v[b * e->dim + k];
    return sum;
}

/* One text: its numbers; several: how alike each is to the first. */
static void print_plain(embedder *e)
{
    for (uint32_t k = 0; e->n == 1 && k < e->dim; k++)
        cli_print(e->c, "%.7g%s", (double)e->v[k], k + 1 < e->dim ? " " : "\n");
    for (size_t i = 1; i < e->n; i++)
        cli_print(e->c, "%.4f  %s\n", cosine(e, 0, i), e->text[i]);
}

static om_status embed(embedder *e, om_err *err)
{
    cli *c = e->c;
    om_model_info info;
    uint64_t context;
    om_model_opts mo = {.tokenizer = cli_str(c, "tokenizer")};
    TRY(cli_u64(c, "context", 0, 1 << 24, &context, err));
    TRY(gather(e, err));
    TRY(om_model_open(c->operand[0], &mo, &e->m, err));
    om_model_describe(e->m, &info);
    e->dim = info.dim;
    om_session_opts so = {.context = (uint32_t)context, .cancel = c->cancel,
                          .threads = (uint32_t)pool_threads(c->pool)};
    TRY(om_session_open(e->m, &so, &e->s, err));
    TRY(embed_all(e, err));
    if (c->json)
        print_json(e);
    else
        print_plain(e);
    return OM_OK;
}

static om_status run(cli *c, om_err *err)
{
    embedder *e = mem_alloc(sizeof(*e));
    if (!e)
        return fail(err, OM_ENOMEM, "embed: no memory");
    e->c = c;
    om_status s = embed(e, err);
    om_session_close(e->s);
    om_model_close(e->m);
    for (size_t i = 0; i < e->n; i++)
        mem_free(e->text[i]);
    mem_free(e->v);
    mem_free(e);
    return s;
}

static const cli_option options[] = {
    {"context", 'c', "N", "0", "longest text in tokens; 0: the model's, at most 4096", false},
    {"tokenizer", 0, "FILE", NULL, "tokenizer of a model that has none", false},
    {0},
};

const command command_embed = {
    .name = "embed", .summary = "texts as vectors, and how alike they are",
    .operands = "MODEL [TEXT...]", .min_operands = 1, .max_operands = 16, .options = options,
    .run = run,
    .details =
        "One text: its vector.  Several: the cosine of each with the first.  Without a text,\n"
        "every line of standard input is one.  With --json: all vectors.\n\n"
        "  octomil embed model.gguf \"a cat\" \"a kitten\" \"a tax return\"\n"
        "  octomil embed model.gguf --json < prompt.txt\n",
};
