// openai_client.mjs - the official openai client against a running `octomil serve`.
//     node openai_client.mjs BASE_URL KEY MODEL ADAPTER PATH_OF_THE_OPENAI_PACKAGE
// Prints a line per failure and a closing line like every test program.
import { pathToFileURL } from 'node:url';
const [base, key, model, adapter, pkg] = process.argv.slice(2);
const { default: OpenAI } = await import(pathToFileURL(`${pkg}/index.mjs`).href);
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: 0, timeout: 60000 });
let passed = 0, failed = 0;
const fail = (name, e) => { failed++; console.log(`FAIL ${name}: ${e?.stack ?? e}`); };
const ok = (cond, what) => { if (!cond) throw Error(`not so: ${what}`); };
const same = (a, b, what) => {
  a = JSON.stringify(a); b = JSON.stringify(b);
  if (a !== b) throw Error(`${what ?? 'values'} differ:\n  ${a}\n  ${b}`);
};
async function test(name, fn) {
  try { await fn(); passed++; } catch (e) { fail(name, e); }
}
async function throws(kind, fn) {
  let got;
  try { await fn(); } catch (e) { got = e; }
  ok(got instanceof kind, `${kind.name}, got ${got}`);
  return got;
}
const hello = [{ role: 'user', content: 'Hello there' }];
const chat = (more) => client.chat.completions.create(
  { model, messages: hello, max_tokens: 24, seed: 7, ...more });
const metric = async (name) => {
  const text = await (await fetch(`${base}/metrics`,
    { headers: { Authorization: `Bearer ${key}` } })).text();
  return Number(text.match(new RegExp(`^octomil_${name} (.*)$`, 'm'))[1]);
};
const gather = async (stream) => {
  const out = { chunks: [], text: '', finish: null, usage: null };
  for await (const c of stream) {
    out.chunks.push(c);
    if (c.usage) out.usage = c.usage;
    const x = c.choices[0];
    if (!x) continue;
    out.text += x.delta?.content ?? x.text ?? '';
    out.finish = x.finish_reason ?? out.finish;
  }
  return out;
};

await test('models', async () => {
  const ids = (await client.models.list()).data.map((m) => m.id);
  same(ids, [model, adapter]);
});

await test('chat: shape, usage, length', async () => {
  const r = await chat({ max_tokens: 5, logit_bias: { 0: -100 } });
  same(r.object, 'chat.completion');
  same(r.choices.length, 1);
  same(r.choices[0].message.role, 'assistant');
  same(r.choices[0].finish_reason, 'length');
  same(r.usage.completion_tokens, 5);
  same(r.usage.total_tokens, r.usage.prompt_tokens + 5);
});

await test('chat: the same seed gives the same text, another another', async () => {
  const a = await chat({}), b = await chat({}), c = await chat({ seed: 8 });
  same(a.choices[0].message.content, b.choices[0].message.content);
  ok(a.choices[0].message.content !== c.choices[0].message.content, 'seed 8 differs');
});

await test('chat: a stream says what the whole answer says', async () => {
  const whole = await chat({});
  const s = await gather(await chat({ stream: true, stream_options: { include_usage: true } }));
  same(s.text, whole.choices[0].message.content);
  same(s.finish, whole.choices[0].finish_reason);
  same(s.usage.completion_tokens, whole.usage.completion_tokens);
  same(s.chunks[0].choices[0].delta.role, 'assistant');
  same(s.chunks[0].object, 'chat.completion.chunk');
  ok(s.chunks.length > 3, 'several chunks');
});

await test('chat: temperature 0 is greedy and the same beside others', async () => {
  const one = await chat({ temperature: 0, seed: 1 });
  const many = await Promise.all([1, 2, 3, 4, 5, 6].map((seed) => chat({ temperature: 0, seed })));
  for (const r of many) same(r.choices[0].message.content, one.choices[0].message.content);
});

await test('chat: stop strings end the text and are not in it', async () => {
  const long = (more) => chat({ max_tokens: 60, ignore_eos: true, ...more });
  const whole = (await long({})).choices[0].message.content;
  let at = 20; // half a character, as an untrained model writes, is nothing to look for
  while (whole.slice(at, at + 3).includes('\uFFFD')) at++;
  const stop = whole.slice(at, at + 3);
  const want = whole.slice(0, whole.indexOf(stop));
  const r = await long({ stop: [stop, 'never to be seen'] });
  same(r.choices[0].message.content, want);
  same(r.choices[0].finish_reason, 'stop');
  const s = await gather(await long({ stop, stream: true }));
  same(s.text, want);
  same(s.finish, 'stop');
});

await test('chat: n choices differ and repeat', async () => {
  const r = await chat({ n: 3 });
  same(r.choices.map((c) => c.index), [0, 1, 2]);
  const texts = new Set(r.choices.map((c) => c.message.content));
  same(texts.size, 3);
  const again = await chat({ n: 3 });
  same(again.choices.map((c) => c.message.content), r.choices.map((c) => c.message.content));
});

await test('chat: logprobs', async () => {
  const r = await chat({ logprobs: true, top_logprobs: 3, temperature: 0, max_tokens: 8 });
  const list = r.choices[0].logprobs.content;
  same(list.length, r.usage.completion_tokens);
  for (const t of list) {
    same(t.top_logprobs.length, 3);
    same(t.top_logprobs[0].token, t.token, 'greedy takes the first');
    ok(t.logprob <= 0 && t.top_logprobs[0].logprob >= t.top_logprobs[1].logprob, 'order');
    ok(t.top_logprobs.reduce((s, x) => s + Math.exp(x.logprob), 0) <= 1.000001, 'a distribution');
  }
  const bytes = list.flatMap((t) => t.bytes);
  same(new TextDecoder().decode(new Uint8Array(bytes)), r.choices[0].message.content);
});

await test('chat: logit_bias, penalties, top_p', async () => {
  const r = await chat({ logit_bias: { 70: 100 }, max_tokens: 6 });
  same(new Set(r.choices[0].message.content).size, 1);
  const p = await chat({ logit_bias: { 70: 5 }, frequency_penalty: 2, presence_penalty: 2,
    max_tokens: 40 });
  ok(new Set(p.choices[0].message.content).size > 4, 'penalties spread');
  const t = await chat({ top_p: 1e-9, seed: 3 }), g = await chat({ temperature: 0 });
  same(t.choices[0].message.content, g.choices[0].message.content);
});

await test('chat: content in parts, developer and tool roles', async () => {
  const one = await chat({ messages: [{ role: 'user', content: 'Hello there' }], temperature: 0 });
  const two = await chat({ temperature: 0, messages: [{ role: 'user', content:
    [{ type: 'text', text: 'Hello ' }, { type: 'text', text: 'there' }] }] });
  same(two.choices[0].message.content, one.choices[0].message.content);
  await chat({ messages: [{ role: 'developer', content: 'Be brief' }, ...hello] });
});

await test('JSON mode', async () => {
  for (let seed = 0; seed < 4; seed++) {
    const r = await chat({ response_format: { type: 'json_object' }, seed, max_tokens: 400 });
    if (r.choices[0].finish_reason === 'length') continue;
    same(typeof JSON.parse(r.choices[0].message.content), 'object');
  }
});

const schema = { type: 'object', additionalProperties: false, required: ['name', 'age', 'tags'],
  properties: { name: { type: 'string', maxLength: 8 }, age: { type: 'integer', minimum: 18,
    maximum: 99 }, tags: { type: 'array', items: { enum: ['a', 'b'] }, maxItems: 3 } } };
await test('JSON schema', async () => {
  for (let seed = 0; seed < 4; seed++) {
    const r = await chat({ seed, max_tokens: 500, response_format: { type: 'json_schema',
      json_schema: { name: 'person', strict: true, schema } } });
    same(r.choices[0].finish_reason, 'stop');
    const v = JSON.parse(r.choices[0].message.content);
    same(Object.keys(v), ['name', 'age', 'tags']);
    ok([...v.name].length <= 8 && v.age >= 18 && v.age <= 99 && Number.isInteger(v.age), 'limits');
    ok(v.tags.length <= 3 && v.tags.every((x) => x === 'a' || x === 'b'), 'tags');
  }
  const e = await throws(OpenAI.BadRequestError, () => chat({ response_format: {
    type: 'json_schema', json_schema: { name: 'x', schema: { not: {} } } } }));
  ok(/'not'/.test(e.message), e.message);
});

const tools = [{ type: 'function', function: { name: 'weather', description: 'the weather',
  parameters: { type: 'object', properties: { city: { type: 'string', maxLength: 10 },
    unit: { enum: ['C', 'F'] } }, required: ['city', 'unit'], additionalProperties: false } } },
{ type: 'function', function: { name: 'time', parameters: { type: 'object', properties: {},
  additionalProperties: false } } }];
let calls;
await test('tools: required', async () => {
  const r = await chat({ tools, tool_choice: 'required', parallel_tool_calls: false,
    max_tokens: 300 });
  const c = r.choices[0];
  same(c.finish_reason, 'tool_calls');
  same(c.message.content, null);
  same(c.message.tool_calls.length, 1);
  calls = c.message.tool_calls;
  ok(['weather', 'time'].includes(calls[0].function.name), 'a tool that was offered');
  JSON.parse(calls[0].function.arguments);
  ok(calls[0].id.length > 5 && calls[0].type === 'function', 'id and type');
});

await test('tools: one by name, in a stream', async () => {
  const stream = client.chat.completions.stream({ model, messages: hello, tools, seed: 5,
    max_tokens: 300, parallel_tool_calls: false,
    tool_choice: { type: 'function', function: { name: 'weather' } } });
  const r = await stream.finalChatCompletion();
  const call = r.choices[0].message.tool_calls[0];
  same(r.choices[0].finish_reason, 'tool_calls');
  same(call.function.name, 'weather');
  const args = JSON.parse(call.function.arguments);
  same(Object.keys(args), ['city', 'unit']);
  ok(['C', 'F'].includes(args.unit), 'enum');
});

await test('tools: results come back into the conversation', async () => {
  const r = await chat({ tools, messages: [...hello,
    { role: 'assistant', content: null, tool_calls: calls },
    { role: 'tool', tool_call_id: calls[0].id, content: '{"temp": 20}' }] });
  ok(r.usage.prompt_tokens > 60, 'the tools are in the prompt');
  const none = await chat({ tools, tool_choice: 'none' });
  ok(!none.choices[0].message.tool_calls, 'no calls');
});

await test('completions: text, echo, several prompts, token ids', async () => {
  const ask = (more) => client.completions.create({ model, prompt: 'Once upon', max_tokens: 6,
    temperature: 0, ...more });
  const r = await ask({});
  same(r.object, 'text_completion');
  const e = await ask({ echo: true });
  same(e.choices[0].text, 'Once upon' + r.choices[0].text);
  const m = await ask({ prompt: ['Once upon', 'The cat'], n: 2 });
  same(m.choices.map((c) => c.index), [0, 1, 2, 3]);
  same(m.choices[0].text, r.choices[0].text);
  same(m.choices[1].text, r.choices[0].text);
  await ask({ prompt: [5, 6, 7] });
  const d = await client.completions.create({ model, prompt: 'x', logit_bias: { 0: -100 } });
  same(d.usage.completion_tokens, 16);
  const s = await gather(await ask({ stream: true, echo: true }));
  same(s.text, e.choices[0].text);
});

await test('completions: logprobs', async () => {
  const r = await client.completions.create({ model, prompt: 'Once', max_tokens: 5, logprobs: 2 });
  const l = r.choices[0].logprobs;
  same([l.tokens.length, l.token_logprobs.length, l.top_logprobs.length, l.text_offset.length]
    .every((n) => n === l.tokens.length), true);
  ok(l.tokens.length > 0 && Object.keys(l.top_logprobs[0]).length <= 2, 'two each');
});

await test('embeddings: floats and base64, one and many', async () => {
  const a = await client.embeddings.create({ model, input: 'a cat', encoding_format: 'float' });
  const b = await client.embeddings.create({ model, input: ['a cat', 'a dog sat'] });
  const x = a.data[0].embedding, y = b.data[0].embedding, z = b.data[1].embedding;
  same(b.data.map((d) => d.index), [0, 1]);
  ok(x.length === y.length && x.every((v, i) => Math.abs(v - y[i]) < 1e-4), 'the same vector');
  ok(Math.abs(x.reduce((s, v) => s + v * v, 0) - 1) < 1e-4, 'length 1');
  ok(z.some((v, i) => Math.abs(v - x[i]) > 1e-3), 'another vector');
  ok(b.usage.prompt_tokens > 0, 'usage');
});

await test('adapters: chosen by name, beside the base', async () => {
  const [a, b, c] = await Promise.all([chat({ temperature: 0 }),
    chat({ temperature: 0, model: adapter }), chat({ temperature: 0 })]);
  same(a.choices[0].message.content, c.choices[0].message.content);
  ok(a.choices[0].message.content !== b.choices[0].message.content, 'the adapter differs');
  same(b.model, adapter);
});

await test('prefix cache', async () => {
  const before = await metric('prefix_hits_total');
  const long = [{ role: 'system', content: 'word '.repeat(40) }, ...hello];
  const first = await chat({ messages: long, temperature: 0 });
  const next = await chat({ temperature: 0, messages: [...long,
    { role: 'assistant', content: first.choices[0].message.content },
    { role: 'user', content: 'Go on' }] });
  ok(next.usage.prompt_tokens_details.cached_tokens > 40, 'tokens reused');
  ok(await metric('prefix_hits_total') > before, 'hits counted');
});

await test('errors have their kinds', async () => {
  const nf = await throws(OpenAI.NotFoundError, () => chat({ model: 'nobody' }));
  same(nf.code, 'model_not_found');
  await throws(OpenAI.BadRequestError, () => chat({ temperature: 9 }));
  await throws(OpenAI.BadRequestError, () => chat({ messages: [] }));
  await throws(OpenAI.BadRequestError, () => chat({ messages: [{ role: 'user', content:
    [{ type: 'image_url', image_url: { url: 'x' } }] }] }));
  const long = await throws(OpenAI.BadRequestError, () => chat({ messages: [{ role: 'user',
    content: 'word '.repeat(40000) }] }));
  same(long.code, 'context_length_exceeded');
  const bad = new OpenAI({ baseURL: `${base}/v1`, apiKey: 'wrong', maxRetries: 0 });
  await throws(OpenAI.AuthenticationError, () => bad.models.list());
});

// A small model may be done before its client is gone: each case is tried until one was
// caught in the act.
await test('a client that goes away is let go of', async () => {
  const cancelled = () => metric('jobs_cancelled_total');
  const long = { model, messages: hello, max_tokens: 100000, ignore_eos: true };
  const gone = (e) => e instanceof OpenAI.APIUserAbortError || e.name === 'AbortError';
  const caught = async (leave) => {
    const before = await cancelled();
    for (let round = 0; round < 40 && await cancelled() === before; round++) {
      const stop = new AbortController();
      try { await leave(stop, round); } catch (e) { if (!gone(e)) throw e; }
      for (let i = 0; i < 10 && await cancelled() === before; i++)
        await new Promise((r) => setTimeout(r, 20));
    }
    ok(await cancelled() > before, 'cancelled');
  };
  await caught(async (stop, round) => {
    const stream = await client.chat.completions.create(
      { ...long, stream: true, seed: round }, { signal: stop.signal });
    let n = 0;
    for await (const c of stream) if (c && ++n === 3) stop.abort();
  });
  await caught(async (stop, round) => {
    setTimeout(() => stop.abort(), 2 + 3 * round);
    await client.chat.completions.create(
      { ...long, n: 8, seed: round }, { signal: stop.signal });
  });
});

console.log(`${passed} passed, ${failed} failed, 0 skipped`);
process.exit(failed ? 1 : 0);
