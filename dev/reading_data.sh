# The data that reading is learned from, for pretrain_cpu.sh and pretrain_smollm2.sh, which source this after venv.sh:
#
#   PROSE       JSON lines {"text"}: English prose
#   QUESTIONS   files of people's questions (form: nanochat/reading_data.py), several in one string
#   DIALOGUES   a folder with sgd.jsonl, sgd_slots.json and restaurant8k.jsonl (.xz, too); without it, no dialogues
#   PAIRS       files of JSON lines {"sentence", "question"}, for finding alone
#   DATA        where the data is made, a new directory (default data/base); SEED; MINUTES_OF_FINDING

# make_data MEMORIES: unless it is there already; so many memories of the grammar
make_data() {
    local file new="$DATA.part"
    if [ -e "$DATA/complete" ]; then
        return
    fi
    [ -z "$(ls -A "$DATA" 2>/dev/null)" ] || fail "$DATA holds other data: DATA=DIR names a new directory"
    rm -rf "$new"
    "$PY" dev/repackage_data_reference.py --input "${PROSE:?a file of prose}" --output "$new"
    for file in ${QUESTIONS:?files of questions}; do
        cp "$file" "$new/"
    done
    if [ -n "${DIALOGUES:-}" ]; then
        find_one() { ls "$DIALOGUES/$1" "$DIALOGUES/$1.xz" 2>/dev/null | head -1; }
        "$PY" dev/dialogue_questions.py --sgd "$(find_one sgd.jsonl)" --slots "$(find_one sgd_slots.json)" \
            --restaurant "$(find_one restaurant8k.jsonl)" --output "$new/dialogues.jsonl" --seed "$SEED"
    fi
    "$PY" dev/grammar.py --seed "$SEED" --memories "$1" --output "$new/grammar.jsonl"
    touch "$new/complete"
    rmdir "$DATA" 2>/dev/null || true
    mv "$new" "$DATA"
}

# learn_to_find DIRECTORY MINUTES RATE: the model of the run TAG, which reads, learns to find, and is shipped there;
# MINUTES_OF_FINDING goes before MINUTES
learn_to_find() {
    local file questions=()
    for file in "$DATA"/*.jsonl "$DATA"/*.jsonl.xz; do
        if [ -e "$file" ]; then questions+=("$file"); fi
    done
    "$PY" -m dev.find --model-path "base_checkpoints/$TAG" --train "${questions[@]}" ${PAIRS:+--pairs $PAIRS} \
        --share grammar=0.15 --share sgd=0.1 --share restaurant8k=0.05 --seed "$SEED" \
        --minutes "${MINUTES_OF_FINDING:-$2}" --rate "$3" --output-path "$1" --replace
}

# glibc's allocator takes longer with every hour of tensors of many sizes, tcmalloc does not (dev/LOG.md; on Debian and
# Ubuntu: apt install libtcmalloc-minimal4)
for library in /usr/lib/*/libtcmalloc_minimal.so.4; do
    if [ -e "$library" ]; then
        export LD_PRELOAD="$library"
    fi
done

# a run that is stopped saves, and ends as if it were done: what comes after it must not begin
trap 'exit 130' INT TERM
