"""What people write who come from other programs (transformers, mlx-lm, mlx-vlm, open_clip, …), and what it is here.

A value is the name that a command or option has here, or a sentence. What a command has under that very name is never
looked up.
"""

_PROMPT = 'The question stands without an option: mlx_mm generate "What is this?" --image FILE -m MODEL.'
_SOURCE = "SOURCE and OUT stand without options: mlx_mm convert SOURCE OUT."
_LABELS = "The words to choose from are --labels."
_INPUTS = "Inputs stand without options."
_REASONS = "It reasons without it; see --no-thinking."
_ALIKE = "Ask for it: mlx_mm search --like FILE."
_FOLDERS = "Folders stand without an option: mlx_mm index ~/Pictures."
_NO_DELETE = "Nothing is deleted here; mlx_mm dups --paths-of-copies -0 | xargs -0 … does with them what you say."
_ASK = 'Ask for it: mlx_mm generate "What does this say?" --image FILE -m MODEL.'

COMMANDS = {
    **dict.fromkeys(("find", "query", "grep", "lookup"), "search"),
    **dict.fromkeys(("similar", "like", "more-like", "nearest"), _ALIKE),
    **dict.fromkeys(("duplicates", "dedupe", "dedup", "duplicate", "dupes"), "dups"),
    **dict.fromkeys(("add", "scan", "update", "refresh", "reindex", "import", "watch"), "index"),
    **dict.fromkeys(("dump", "save"), "export"),
    **dict.fromkeys(("server", "api", "listen", "start"), "serve"),
    **dict.fromkeys(("ocr", "caption", "describe", "vqa", "ask", "answer", "run", "predict"), _ASK),
    **dict.fromkeys(("quantize", "quantise"), "convert"),
    **dict.fromkeys(("zero-shot", "zeroshot", "score"), "classify"),
    **dict.fromkeys(("label", "tags", "keywords"), "tag"),
    **dict.fromkeys(("encode", "embeddings", "vectorize", "features"), "embed"),
    **dict.fromkeys(("list", "ls", "cache", "scan-cache"), "models"),
    **dict.fromkeys(("remove", "rm", "delete"), "Models are removed by: mlx_mm models --remove NAME."),
    **dict.fromkeys(("download", "pull", "fetch"), "A model is downloaded when it is first named: mlx_mm info MODEL."),
    **dict.fromkeys(("show", "inspect", "describe-model", "doctor", "env"), "info"),
    **dict.fromkeys(("repl", "talk"), "chat"),
    **dict.fromkeys(("benchmark", "perf", "speed", "speedtest"), "bench"),
    "example": "demo",
    "help": "--help",
    "version": "--version",
}

# Command -> {option elsewhere: option here, or a sentence}; "" holds for all commands
OPTIONS = {
    "": {
        **dict.fromkeys(("--model-path", "--model-name", "--model-id", "--model-name-or-path"), "--model"),
        **dict.fromkeys(("--pretrained", "--checkpoint", "--ckpt", "--repo", "--repo-id"), "--model"),
        "--trust-remote-code": "It is never needed: no code of a checkpoint is run.",
        **dict.fromkeys(("--device", "--cuda", "--gpu", "--cpu"), "MLX takes the device: the GPU where there is one."),
        **dict.fromkeys(("--workers", "--num-workers", "--threads", "-j"), "All processors are used without it."),
        **dict.fromkeys(("--token", "--hf-token"), "Set HF_TOKEN, or run: hf auth login."),
        **dict.fromkeys(("--offline", "--local-files-only"), "Set HF_HUB_OFFLINE=1."),
        **dict.fromkeys(("--cache-dir", "--download-dir"), "Set HF_HOME."),
        **dict.fromkeys(("--format", "--output-format"), "--json"),
        **dict.fromkeys(("--verbose", "-v", "--quiet", "--progress"), "Progress is on stderr; 2>/dev/null hides it."),
        **dict.fromkeys(("--recursive", "-r"), "Folders are searched to the bottom without it."),
        **dict.fromkeys(("--batch", "--bs"), "--batch-size"),
        "-V": "--version",
    },
    "convert": {
        **dict.fromkeys(("--hf-path", "--model", "-m", "--mlx-path", "--source", "--input"), _SOURCE),
        **dict.fromkeys(("--out", "-o", "--output", "--out-dir", "--output-dir", "--save-path"), _SOURCE),
        **dict.fromkeys(("-q", "--quantize"), "4 bit is what it makes without it; --bits 8 and --bits none differ."),
        **dict.fromkeys(("--q-bits", "--w-bits", "-b"), "--bits"),
        **dict.fromkeys(("--q-group-size", "-g"), "--group-size"),
        "--q-mode": "--mode",
        **dict.fromkeys(("--quant-predicate", "--mixed-quantization", "--quantization-recipe"), "--recipe"),
        "--torch-dtype": "--dtype",
        **dict.fromkeys(("-d", "--dequantize"), "Pass --bits none over the checkpoint that was not quantised."),
        **dict.fromkeys(("--upload-repo", "--push-to-hub"), "Nothing is uploaded here: hf upload OWNER/NAME OUT."),
        **dict.fromkeys(("--force", "-f", "-y", "--yes"), "--overwrite"),
    },
    "embed": {
        **dict.fromkeys(
            ("--output", "--output-path", "--output-file", "--output-dir", "--save", "--out-file"), "--out"
        ),
        **dict.fromkeys(("--image", "--images", "--audio", "--input", "--inputs", "-i"), _INPUTS),
        **dict.fromkeys(("--texts", "--query", "--prompt", "--sentences"), "--text"),
        **dict.fromkeys(("--normalize", "--normalise"), "Vectors have length 1 without it; see --no-normalize."),
        **dict.fromkeys(("--truncate-dim", "--dims", "--dimensions", "--matryoshka-dim"), "--dim"),
        **dict.fromkeys(("--prompt-name", "--task-type"), "--task"),
        **dict.fromkeys(("--max-seq-length", "--max-tokens"), "--max-length"),
        **dict.fromkeys(("-0", "--print0", "--null-data"), "--null"),
    },
    "classify": {
        **dict.fromkeys(("--classes", "--class-names", "--candidate-labels", "--tags", "--text", "--texts"), _LABELS),
        **dict.fromkeys(("--image", "--images", "--audio", "--input", "--inputs", "-i"), _INPUTS),
        **dict.fromkeys(("--prompt", "--prompts", "--hypothesis-template"), "--template"),
        **dict.fromkeys(("--top-k", "--topk", "-k", "-n"), "--top"),
        **dict.fromkeys(("--output", "--out", "-o"), "Results go to stdout: --json > FILE."),
        **dict.fromkeys(("-0", "--print0", "--null-data"), "--null"),
    },
    "generate": {
        **dict.fromkeys(("--prompt", "-p", "--question", "--query", "--text"), _PROMPT),
        **dict.fromkeys(("--images", "-i", "--image-path", "--file"), "--image"),
        **dict.fromkeys(("--videos", "--video-path"), "--video"),
        "--audio": "Models that answer hear no sounds yet; mlx_mm classify and embed do.",
        **dict.fromkeys(("--output", "--out", "-o"), "The answer goes to stdout: > FILE."),
    },
    "chat": {
        **dict.fromkeys(("--prompt", "-p", "--image", "-i", "--images"), _PROMPT + " In a chat, write them in a line."),
    },
    "info": {
        **dict.fromkeys(("--model", "-m"), "The model stands without an option: mlx_mm info MODEL."),
        **dict.fromkeys(("--images", "-i"), "--image"),
    },
    "index": {
        **dict.fromkeys(("--folder", "--folders", "--path", "--dir", "--input", "-i"), _FOLDERS),
        **dict.fromkeys(("--db", "--database", "--store", "--out", "--output", "-o"), "--index"),
        **dict.fromkeys(("--ignore", "--exclude-dir", "--skip"), "--exclude"),
        **dict.fromkeys(("--video",), "--videos"),
        **dict.fromkeys(("--verify", "--fsck"), "--check"),
        **dict.fromkeys(("--vacuum", "--optimize"), "--compact"),
        **dict.fromkeys(("--prune", "--clean", "--remove", "--delete"), "--forget"),
        **dict.fromkeys(("--status", "--info"), "--stats"),
        **dict.fromkeys(("--rebuild", "--reindex", "--force", "-f"), "--reembed"),
        **dict.fromkeys(("--rename", "--relocate", "--move"), "--moved"),
    },
    "search": {
        **dict.fromkeys(("--query", "-q", "--text", "--prompt"), "The words stand without an option."),
        **dict.fromkeys(("--db", "--database", "--store"), "--index"),
        **dict.fromkeys(("--image", "--similar", "--by-image", "--example"), "--like"),
        **dict.fromkeys(("--without", "--negative", "--minus", "--exclude"), "--not"),
        **dict.fromkeys(("--top-k", "--topk", "-k", "-n", "--limit", "--count"), "--top"),
        **dict.fromkeys(("--threshold", "--min-score", "--cutoff"), "--min"),
        **dict.fromkeys(("--after", "--from", "--begin"), "--since"),
        **dict.fromkeys(("--before", "--to", "--end"), "--until"),
        **dict.fromkeys(("--folder", "--path", "--dir"), "--in"),
        **dict.fromkeys(("--type", "--media", "--modality"), "--kind"),
        **dict.fromkeys(("--gps", "--place", "--location", "--around"), "--near"),
        **dict.fromkeys(("--order", "--order-by", "--sort-by"), "--sort"),
        **dict.fromkeys(("--print0", "--filepath-only", "-f"), "--null"),
        **dict.fromkeys(("--label", "--tags"), "--tag"),
        **dict.fromkeys(("--preview", "-p", "--show", "--view"), "--open"),
        **dict.fromkeys(("--contact-sheet", "--out", "-o"), "--sheet"),
    },
    "dups": {
        **dict.fromkeys(("--db", "--database", "--store"), "--index"),
        **dict.fromkeys(("--min", "--cutoff", "--similarity"), "--threshold"),
        **dict.fromkeys(("--delete", "--remove", "-d"), _NO_DELETE),
        **dict.fromkeys(("--ignore", "--not-duplicates"), "--keep-apart"),
        "--print0": "--null",
    },
    "tag": {
        **dict.fromkeys(("--classes", "--class-names", "--candidate-labels", "--tags", "--text"), "--labels"),
        **dict.fromkeys(("--threshold", "--min-score", "--cutoff"), "--min"),
        **dict.fromkeys(("--db", "--database", "--store"), "--index"),
    },
    "export": {
        **dict.fromkeys(("--output", "--path", "--file"), "--out"),
        **dict.fromkeys(("--db", "--database", "--store"), "--index"),
    },
    "demo": {
        **dict.fromkeys(("--output", "-o", "--save"), "--out"),
    },
    "bench": {
        **dict.fromkeys(("--runs", "--iterations", "--iters", "--repeat", "--repetitions", "-n", "-r"), "--turns"),
        **dict.fromkeys(("--batch-size", "--bs"), "--batch"),
    },
    "models": {
        **dict.fromkeys(("--delete", "--rm", "--uninstall"), "--remove"),
        **dict.fromkeys(("-y", "--force", "-f"), "--yes"),
        "--list": "It lists without an option.",
    },
}

_ANSWERING = {
    **dict.fromkeys(("--max-new-tokens", "--max-length", "--n-predict", "-n"), "--max-tokens"),
    "-t": "--temperature",
    **dict.fromkeys(("--system-prompt", "--system-message"), "--system"),
    **dict.fromkeys(
        ("--enable-thinking", "--thinking", "--think", "--reasoning"), "It reasons without it; see --no-thinking."
    ),
    **dict.fromkeys(("--disable-thinking", "--no-think"), "--no-thinking"),
    **dict.fromkeys(("--stop-words", "--stop-strings", "--extra-eos-token", "--eos-tokens"), "--stop"),
    "--stream": "Answers come piece by piece without it.",
    **dict.fromkeys(("--resize-shape", "--max-image-size", "--image-size"), "--max-pixels"),
    "--repeat-penalty": "--repetition-penalty",
    **dict.fromkeys(("--verbose", "-v"), "--stats"),
}
for _command in ("generate", "chat"):
    OPTIONS[_command] = _ANSWERING | OPTIONS[_command]
