#!/usr/bin/env python3
"""Writes the seed inputs of the file formats: fuzz/corpus/{json,number,gguf,...}.
Each is tiny and valid, or nearly so; libFuzzer takes it from there."""
import json, os, struct

here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")


def put(target, name, data):
    os.makedirs(os.path.join(here, target), exist_ok=True)
    if isinstance(data, str):
        data = data.encode()
    with open(os.path.join(here, target, name), "wb") as f:
        f.write(data)


# ---- json, number ----
put("json", "object", '{"name":"caf\\u00e9 \\ud834\\udd1e","dims":[64,-1.5e3,0],"ok":true,"no":null}')
put("json", "nested", "[[[[{\"a\":[{}]}]]],\"\\n\\t\\\\\\\"\\/\\b\"]")
put("json", "depth", "[" * 64 + "]" * 64)
put("json", "utf8", '["é","€","\U0001d11e","\\u0000"]')
put("json", "numbers", "[0,-0,1e400,1E-5,18446744073709551615,-9223372036854775808,0.1]")
put("json", "config", json.dumps({"model_type": "llama", "hidden_size": 64, "rope_scaling":
    {"type": "linear", "factor": 2.0}, "tie_word_embeddings": False, "dup": 1}))
put("json", "twice", '{"a":1,"a":{"a":2}}')
put("json", "bad_surrogate", '"\\ud800\\u0041"')
for i, z in enumerate(["0.1", "-1.7976931348623157e308", "4.9406564584124654e-324", "9007199254740993",
        "2.2250738585072011e-308", "1e23", "123456789012345678901234567890.5e-10", "+.5", "1e-400",
        "5" * 800 + "e-700"]):
    put("number", str(i), z)


# ---- gguf ----
def s(t):
    t = t.encode()
    return struct.pack("<Q", len(t)) + t


def kv(key, kind, raw):
    return s(key) + struct.pack("<I", kind) + raw


def array(kind, n, raw):
    return struct.pack("<IQ", kind, n) + raw


def gguf(kvs, tensors, version=3, align=32):
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(kvs)) + b"".join(kvs)
    data = b""
    for name, dims, kind, raw in tensors:
        out += s(name) + struct.pack("<I%dQIQ" % len(dims), len(dims), *dims, kind, len(data))
        data += raw + b"\0" * (-len(raw) % align)
    return out + b"\0" * (-len(out) % align) + data


put("gguf", "empty", gguf([], []))
put("gguf", "scalars", gguf([kv("a", 0, b"\1"), kv("b", 1, b"\xff"), kv("c", 2, b"\1\2"),
    kv("d", 3, b"\1\2"), kv("e", 4, b"\1\2\3\4"), kv("f", 5, b"\1\2\3\4"), kv("g", 6, struct.pack("<f", 1.5)),
    kv("h", 7, b"\1"), kv("i", 8, s("text")), kv("j", 10, b"\xff" * 8), kv("k", 11, b"\xff" * 8),
    kv("l", 12, struct.pack("<d", -2))], []))
put("gguf", "arrays", gguf([kv("s", 9, array(8, 3, s("x") + s("") + s("yz"))), kv("i", 9, array(5, 2, b"\1" * 8)),
    kv("b", 9, array(7, 2, b"\0\1")), kv("e", 9, array(6, 0, b""))], []))
put("gguf", "tensors", gguf([kv("general.architecture", 8, s("llama"))], [("a", [2, 3], 0, b"\1" * 24),
    ("b.weight", [32, 2], 8, b"\2" * 68), ("h", [4], 1, b"\3" * 8), ("k", [256], 12, b"\4" * 144)]))
put("gguf", "aligned", gguf([kv("general.alignment", 4, struct.pack("<I", 8))], [("a", [1], 0, b"\1" * 4),
    ("b", [1, 1, 1, 1], 0, b"\1" * 4)], align=8))
put("gguf", "v2", gguf([kv("x", 4, b"\0" * 4)], [("a", [2], 0, b"\1" * 8)], version=2))
put("gguf", "nested", gguf([kv("n", 9, array(9, 1, array(0, 1, b"\1")))], []))


# ---- safetensors ----
def st(header, data=b""):
    h = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    h = h.encode()
    return struct.pack("<Q", len(h)) + h + data


put("safetensors", "empty", st({}))
put("safetensors", "two", st({"__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [3], "data_offsets": [8, 14]}}, b"\1" * 14))
put("safetensors", "misaligned", st({"m": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]},
    "a": {"dtype": "F32", "shape": [], "data_offsets": [1, 5]}}, b"\1" * 5))
put("safetensors", "index", '{"metadata":{"total_size":9},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-1.safetensors"}}')


# ---- llama2c ----
def floats(n):
    return struct.pack("<%df" % n, *[i / 8 for i in range(n)])


dim, hidden, layers, heads, kvh, vocab, seq = 4, 4, 1, 2, 1, 3, 2
kvd = dim // heads * kvh
mats = dim * dim * 2 + 2 * dim * kvd + 3 * dim * hidden
norms = 2 * layers * dim + dim
for tied in (1, 0):
    head = struct.pack("<7i", dim, hidden, layers, heads, kvh, vocab if tied else -vocab, seq)
    n = vocab * dim + layers * mats + norms + seq * (dim // heads) + (0 if tied else vocab * dim)
    put("llama2c", "v0_%d" % tied, head + floats(n))
    head = struct.pack("<8i", 1, dim, hidden, layers, heads, kvh, vocab, seq)
    n = vocab * dim + layers * mats + norms + (0 if tied else vocab * dim)
    put("llama2c", "v1_%d" % tied, (b"24ka" + head + bytes([tied])).ljust(256, b"\0") + floats(n))
    head = struct.pack("<8iBi", 2, dim, hidden, layers, heads, kvh, vocab, seq, tied, 4)
    q = vocab * dim + layers * mats + (0 if tied else vocab * dim)
    body = floats(norms)
    for size in [vocab * dim] + [dim * dim, dim * kvd, dim * kvd, dim * dim] + [dim * hidden] * 3 + ([] if tied else [vocab * dim]):
        body += bytes(i % 256 for i in range(size)) + floats(size // 4)
    put("llama2c", "v2_%d" % tied, (b"24ka" + head).ljust(256, b"\0") + body)

# ---- data: the first byte chooses the reader ----
put("data", "lines", b"\x00one\n two \r\n\nthree")
put("data", "paragraphs", b"\x01a\nb\n\nc\n\n\n")
put("data", "documents", b"\x02once<|endoftext|>upon<|endoftext|>")
put("data", "jsonl", b'\x05{"text":"a"}\n\n{"text":"b\\n"}\n')
put("data", "jsonl_path", b'\x06{"a":[{"b":"x"}]}\n')
put("data", "jsonl_strings", b'\x04"x"\n"y"')
put("data", "idx", b"\x08\0\0\x08\2\0\0\0\2\0\0\0\3abcdef")
put("data", "idx_f64", b"\x08\0\0\x0e\1\0\0\0\1\x40\0\0\0\0\0\0\0")
put("data", "libsvm", b"\x09+1 1:0.5 3:-2e1 # c\n-1 2:1\n\n0\n")
put("data", "csv", b'\x0a"x",y,\'z\'\n1,?,\n"-2.5",3e1,NA\n')
put("data", "csv_semicolon", b"\x0b1;2\n3;4\n")

# ---- tokenizer: the form, the length of the file, the file, a text ----
def tok(name, form, file, text):
    file = file.encode() if isinstance(file, str) else file
    put("tokenizer", name, struct.pack("<BH", form, len(file)) + file + text.encode())


def strings(words):
    return array(8, len(words), b"".join(s(w) for w in words))


def ints(*v):
    return array(5, len(v), struct.pack("<%di" % len(v), *v))


letters = {c: i for i, c in enumerate("abĠ1'")}
tok("hf_bpe", 0, json.dumps({"added_tokens": [{"id": 7, "content": "<|s|>", "special": True},
    {"id": 8, "content": "<u>", "special": False, "lstrip": True}], "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False}]},
    "post_processor": {"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "<|s|>"}}, {"Sequence": {"id": "A"}}]},
    "model": {"type": "BPE", "vocab": dict(letters, ab=5, Ġab=6),
              "merges": ["a b", ["Ġ", "ab"]]}}), "ab ab <u>1<|s|>a")
tok("hf_spm", 0, json.dumps({"normalizer": {"type": "Prepend", "prepend": "▁"},
    "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True,
    "vocab": {"<unk>": 0, "a": 1, "▁": 2, "▁a": 3, "<0x0A>": 4}, "merges": ["▁ a"]}}), "a a\nb")
pieces = ["<unk>", "\n<s>\n", "\n</s>\n", "<0x0A>", " ", "a", " a", "aa"]
tok("bin", 1, struct.pack("<I", 6) + b"".join(
    struct.pack("<fi", -i, len(p)) + p.encode() for i, p in enumerate(pieces)), "aa a\na")


def field(n, raw):
    return bytes([n << 3 | 2, len(raw)]) + raw


def piece(text, score, kind):
    return field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))


tok("spm", 2, piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3) + piece("▁", -1, 1) +
    piece("a", -2, 1) + piece("▁a", 0, 1) + piece("<0x41>", 0, 6) + field(2, b"\x18\x02") +
    field(3, b"\x18\x01"), "a aA")
tok("vocab_merges", 3, json.dumps({"a": 0, "b": 1, "ab": 2}), "#version: 0.2\na b\n")
tok("train", 4 + 6 * 9, "low low lower lowest new newer newest", "low newest<|x|>")
tok("gguf_bpe", 5, gguf([kv("tokenizer.ggml.model", 8, s("gpt2")),
    kv("tokenizer.ggml.pre", 8, s("llama-bpe")),
    kv("tokenizer.ggml.tokens", 9, strings(["a", "b", "ab", "Ġ", "<|e|>", "<u>"])),
    kv("tokenizer.ggml.token_type", 9, ints(1, 1, 1, 1, 3, 4)),
    kv("tokenizer.ggml.merges", 9, strings(["a b"])),
    kv("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 4))], []), "ab ab<u>a<|e|>")
for pre in ["gpt-2", "qwen2", "falcon", "deepseek-llm", "deepseek-v3", "chameleon"]:
    tok("gguf_" + pre, 5, gguf([kv("tokenizer.ggml.model", 8, s("gpt2")),
        kv("tokenizer.ggml.pre", 8, s(pre)),
        kv("tokenizer.ggml.tokens", 9, strings(["a", "Ġ", "1", "?"])),
        kv("tokenizer.ggml.unknown_token_id", 4, struct.pack("<I", 3)),
        kv("tokenizer.ggml.merges", 9, strings([]))], []), "a 111 'S  \r\n é\u4e16\u3042!")
tok("gguf_spm", 5, gguf([kv("tokenizer.ggml.model", 8, s("llama")),
    kv("tokenizer.ggml.tokens", 9, strings(["<unk>", "<s>", "</s>", "a", "▁", "▁a", "<0x0A>"])),
    kv("tokenizer.ggml.scores", 9, array(6, 7, struct.pack("<7f", 0, 0, 0, -3, -3, -1, 0))),
    kv("tokenizer.ggml.token_type", 9, ints(2, 3, 3, 1, 1, 1, 6))], []), "a a\n</s>a")
