/* cmd_train.c - train a model on a text on this machine: LoRA by default, every weight
 * with --full.  Writes an adapter (PEFT folder and GGUF) or a model, a checkpoint to go
 * on from, and the loss curve. */
#include "adapt/adapt.h"
#include "cli/cli.h"
#include "cli/plot.h"
#include "cli/text_data.h"

#include <math.h>
#include <stdio.h>

typedef struct {
    llm_model *model;
    token_text text, held_out;
    trainable t;
    trainer *trainer;
    train_config config;
    const char *out;
    double *loss, *step; /* every step of this run, for the curve */
    size_t n_loss;
    double perplexity_before, perplexity_after; /* of the held-out text, or NaN */
} job;

/* ---- set up ----------------------------------------------------------------------- */

static om_status read_config(cli *c, train_config *t, om_err *err)
{
    uint64_t steps, batch, seq, accumulate, warmup, seed, budget = 0;
    int schedule = 0;
    TRY(cli_u64(c, "steps", 1, 100000000, &steps, err));
    TRY(cli_u64(c, "batch", 1, 4096, &batch, err));
    TRY(cli_u64(c, "seq-len", 2, 1 << 20, &seq, err));
    TRY(cli_u64(c, "accumulate", 1, 65536, &accumulate, err));
    TRY(cli_u64(c, "warmup", 0, 100000000, &warmup, err));
    TRY(cli_u64(c, "seed", 0, UINT64_MAX, &seed, err));
    if (cli_given(c, "memory-mb"))
        TRY(cli_u64(c, "memory-mb", 1, 1 << 24, &budget, err));
    *t = (train_config){.optimizer = cli_str(c, "optimizer"), .warmup = warmup,
                        .steps = steps, .min_ratio = 0.1, .batch = (uint32_t)batch,
                        .seq_len = (uint32_t)seq, .accumulate = (uint32_t)accumulate,
                        .memory_bytes = (size_t)budget * 1000000, .seed = seed,
                        .k = &c->kernels, .pool = c->pool, .cancel = c->cancel};
    TRY(cli_f64(c, "lr", 1e-12, 1e6, &t->lr, err));
    TRY(cli_f64(c, "clip-norm", 0, 1e12, &t->clip_norm, err));
    TRY(cli_choice(c, "schedule", "constant|linear|cosine", &schedule, err));
    t->schedule = (nn_schedule_kind)schedule;
    return OM_OK;
}

static om_status make_trainable(cli *c, job *j, om_err *err)
{
    uint64_t rank;
    double alpha = 0;
    if (cli_flag(c, "full"))
        return trainable_full(j->model, &j->t, err);
    if (cli_given(c, "prompt-tokens")) {
        uint64_t tokens, seed;
        TRY(cli_u64(c, "prompt-tokens", 1, 4096, &tokens, err));
        TRY(cli_u64(c, "seed", 0, UINT64_MAX, &seed, err));
        return trainable_prompt(j->model, (uint32_t)tokens, seed, &j->t, err);
    }
    if (cli_given(c, "adapter"))
        return peft_load(j->model, cli_str(c, "adapter"), &j->t, err);
    TRY(cli_u64(c, "rank", 1, 1024, &rank, err));
    if (cli_given(c, "alpha"))
        TRY(cli_f64(c, "alpha", 1e-6, 1e6, &alpha, err));
    lora_config lora = {.rank = (uint32_t)rank, .alpha = (float)alpha,
                        .target_modules = cli_str(c, "target-modules"),
                        .seed = j->config.seed, .rslora = cli_flag(c, "rslora")};
    return trainable_lora(j->model, &lora, &j->t, err);
}

static om_status measure(cli *c, const job *j, double *out, om_err *err)
{
    perplexity_report r;
    *out = (double)NAN;
    if (!j->held_out.n)
        return OM_OK;
    uint32_t stride = j->config.seq_len / 2;
    uint32_t window = j->config.seq_len + llm_prompt_tokens(j->model);
    TRY(llm_perplexity(j->model, &c->kernels, c->pool, j->held_out.ids, j->held_out.n, window,
                       stride, c->cancel, NULL, NULL, &r, err));
    *out = r.perplexity;
    return OM_OK;
}

static om_status prepare(cli *c, job *j, om_err *err)
{
    TRY(read_config(c, &j->config, err));
    TRY(llm_open(cli_str(c, "model"), &j->model, err));
    TRY(token_text_read(j->model, cli_str(c, "data"), &j->text, err));
    if (cli_given(c, "eval"))
        TRY(token_text_read(j->model, cli_str(c, "eval"), &j->held_out, err));
    TRY(make_trainable(c, j, err));
    TRY(trainer_open(&j->t, &j->config, &j->trainer, err));
    if (cli_given(c, "resume"))
        TRY(trainer_load(j->trainer, cli_str(c, "resume"), err));
    j->loss = mem_array(j->config.steps, sizeof(double));
    j->step = mem_array(j->config.steps, sizeof(double));
    if (!j->loss || !j->step)
        return fail(err, OM_ENOMEM, "no memory for %llu steps",
                    (unsigned long long)j->config.steps);
    return os_mkdirs(j->out, err);
}

/* ---- train ------------------------------------------------------------------------ */

static om_status in_out(const job *j, const char *name, char *path, size_t cap, om_err *err)
{
    return os_join(path, cap, j->out, name) == OM_OK
               ? OM_OK
               : fail(err, OM_EARG, "the folder '%.80s...' has too long a name", j->out);
}

static om_status checkpoint(const job *j, om_err *err)
{
    char path[4096];
    TRY(in_out(j, "checkpoint.omck", path, sizeof(path), err));
    return trainer_save(j->trainer, path, err);
}

static om_status train(cli *c, job *j, om_err *err)
{
    token_data d = {j->text.ids, j->text.n, j->config.seq_len};
    uint64_t every, tokens = (uint64_t)j->config.batch * j->config.seq_len *
                             j->config.accumulate;
    TRY(cli_u64(c, "checkpoint-every", 0, UINT64_MAX, &every, err));
    train_report r = {0};
    do {
        char what[96];
        TRY(trainer_step(j->trainer, &d, &r, err));
        j->step[j->n_loss] = (double)r.step;
        j->loss[j->n_loss++] = r.loss;
        snprintf(what, sizeof(what), "step %llu/%llu loss %.4f",
                 (unsigned long long)r.step, (unsigned long long)j->config.steps, r.loss);
        cli_progress(c, what, "tokens", r.step * tokens, j->config.steps * tokens);
        if (every && r.step % every == 0)
            TRY(checkpoint(j, err));
    } while (r.step < j->config.steps);
    cli_progress_end(c);
    return checkpoint(j, err);
}



/* ---- results ---------------------------------------------------------------------- */

static om_status write_curve(const job *j, om_err *err)
{
    char path[4096];
    buf b = buf_growing(1 << 28);
    plot_series s = {"training loss", j->step, j->loss, j->n_loss, false};
    plot p = {.title = "Training loss", .x_label = "step", .y_label = "cross-entropy, nats",
              .series = &s, .n_series = 1};
    om_status status = plot_svg(&p, &b);
    if (status == OM_OK)
        status = in_out(j, "loss.svg", path, sizeof(path), err);
    if (status == OM_OK)
        status = os_write_file_atomic(path, b.data, b.len, err);
    buf_free(&b);
    return status;
}

static om_status write_results(cli *c, const job *j, om_err *err)
{
    dtype type = dtype_find(str_of(cli_str(c, "type")));
    TRY(write_curve(j, err));
    if (type == DTYPE_COUNT)
        return fail(err, OM_EARG, "--type '%s' is not a tensor type", cli_str(c, "type"));
    return trainable_save(&j->t, j->out, cli_str(c, "model"), type, err);
}

static void answer(cli *c, const job *j)
{
    double first = j->loss[0], last = j->loss[j->n_loss - 1];
    if (c->json) {
        json_out o = json_to(&c->out);
        json_open_object(&o, NULL);
        json_put_str(&o, "out", str_of(j->out));
        json_put_u64(&o, "steps", j->n_loss);
        json_put_u64(&o, "trainable", j->t.n);
        json_put_f64(&o, "first_loss", first);
        json_put_f64(&o, "last_loss", last);
        json_put_f64(&o, "perplexity_before", j->perplexity_before);
        json_put_f64(&o, "perplexity_after", j->perplexity_after);
        json_put_u64(&o, "peak_rss_bytes", os_peak_rss_bytes());
        json_shut(&o, '}');
        cli_print(c, "\n");
        return;
    }
    cli_print(c, "trained %zu numbers for %zu steps: loss %.4f -> %.4f\n", j->t.n, j->n_loss,
              first, last);
    if (j->held_out.n)
        cli_print(c, "perplexity on held-out text: %.3f -> %.3f\n", j->perplexity_before,
                  j->perplexity_after);
    cli_print(c, "wrote %s/%s, checkpoint.omck and loss.svg\n", j->out,
              j->t.mode == TRAIN_FULL     ? "model.gguf"
              : j->t.mode == TRAIN_PROMPT ? "adapter.gguf"
                                          : "adapter_model.safetensors, adapter.gguf");
}

static om_status work(cli *c, job *j, om_err *err)
{
    TRY(prepare(c, j, err));
    TRY(measure(c, j, &j->perplexity_before, err));
    TRY(train(c, j, err));
    TRY(measure(c, j, &j->perplexity_after, err));
    TRY(write_results(c, j, err));
    answer(c, j);
    return OM_OK;
}

static om_status run(cli *c, om_err *err)
{
    char *as_server[] = {"--config", (char *)(uintptr_t)cli_str(c, "config"), "--out",
                         (char *)(uintptr_t)cli_str(c, "out")};
    if (cli_given(c, "config"))
        return cli_delegate(c, command_find("server"), 4, as_server, err);
    if (!cli_given(c, "model") || !cli_given(c, "data"))
        return fail(err, OM_EARG, "train needs --model M and --data FILE, or --config FILE for "
                                  "a federated run");
    job j = {.out = cli_str(c, "out")};
    om_status s = work(c, &j, err);
    trainer_close(j.trainer);
    if (j.t.owned_)
        trainable_close(&j.t);
    if (j.model)
        llm_close(j.model);
    token_text_free(&j.text);
    token_text_free(&j.held_out);
    mem_free(j.loss);
    mem_free(j.step);
    return s;
}

static const cli_option options[] = {
    {"config", 'c', "FILE", NULL, "start the federated run of this configuration", false},
    {"model", 'm', "MODEL", NULL, "the base: .gguf, a Hugging Face folder, llama2.c .bin", false},
    {"data", 'd', "FILE", NULL, "text to learn from; - is standard input", false},
    {"eval", 0, "FILE", NULL, "held-out text: perplexity before and after", false},
    {"out", 'o', "DIR", "trained", "where adapter or model, checkpoint and curve go", false},
    {"full", 0, NULL, NULL, "train every weight instead of an adapter", false},
    {"prompt-tokens", 0, "N", NULL, "train N tokens that go before every text instead", false},
    {"rank", 'r', "N", "8", "LoRA rank", false},
    {"alpha", 0, "X", NULL, "LoRA alpha; its scale is alpha/rank (default: twice the rank)",
     false},
    {"rslora", 0, NULL, NULL, "rank-stabilised: the scale is alpha/sqrt(rank)", false},
    {"target-modules", 0, "LIST", "q_proj,v_proj",
     "of q_proj k_proj v_proj o_proj gate_proj up_proj down_proj, or all", false},
    {"adapter", 0, "DIR", NULL, "go on from this PEFT adapter", false},
    {"resume", 0, "FILE", NULL, "go on from this checkpoint, to the same bits", false},
    {"steps", 0, "N", "100", "optimizer steps", false},
    {"batch", 'b', "N", "4", "windows per micro-batch", false},
    {"seq-len", 0, "N", "128", "tokens per window", false},
    {"accumulate", 0, "N", "1", "micro-batches per step", false},
    {"optimizer", 0, "NAME", "adamw", "sgd, momentum or adamw", false},
    {"lr", 0, "X", "0.001", "peak learning rate", false},
    {"schedule", 0, "NAME", "cosine", "constant, linear or cosine", false},
    {"warmup", 0, "N", "10", "steps of linear warm-up", false},
    {"clip-norm", 0, "X", "1", "gradient norm limit; 0: none", false},
    {"memory-mb", 0, "N", NULL, "budget beside the base model: recompute when needed", false},
    {"checkpoint-every", 0, "N", "0", "steps between checkpoints; 0: only at the end", false},
    {"type", 0, "TYPE", "F16", "tensor type of a fully trained model's file", false},
    {"seed", 0, "N", "1", "for initial values and data order", false},
    {0},
};

const command command_train = {
    .name = "train", .summary = "train a model on a text here, or start a federated run",
    .operands = "", .options = options, .run = run,
    .details = "Example: octomil train --model base.gguf --data notes.txt --steps 200\n"
               "Then:    octomil run base.gguf --adapter trained \"Dear\"\n"
               "Or:      octomil merge base.gguf trained merged.gguf\n\n"
               "With --config it is 'octomil server --config FILE': devices then join with\n"
               "'octomil agent --server URL --data FILE'.\n",
};
