"""
A conversation with a memory, line by line, on a terminal or through a pipe. Answers go to stdout, everything else to
stderr.

What is said here is an episode of the source "chat", with its time. So deleting what was said in a conversation is
deleting its episodes: one by one with /forget, or all of them with `python -m scripts.memory forget --source chat`.
There is no history file: it would keep what was forgotten.
"""
import json
import os
import sys
import time

from nanochat.common import UserError
from nanochat.text import is_question, iso, lived, may_be_question, printable, shortened

SOURCE = "chat"
SHOWN = 3      # episodes named under an answer; --json gives all
LISTED = 10    # episodes listed by /memory and /forget
UNSURE = 0.5   # an answer of less confidence is said to be unsure

WORDS = ("exit", "help", "quit")   # commands without their slash, where they stand alone

HELP = """A line that ends in '?', or begins with "tell me", or with who, what, when, where, which, why or how and does
not end in '.' or '!', is asked. Every other line is remembered, at once and for good, as an episode of the source
"chat"; through a pipe, lines are asked.
  /memory [TEXT]      the newest episodes, or those that hold TEXT
  /show ID            an episode, whole
  /forget [ID|TEXT]   forget an episode, exactly; deleting what you said is deleting these episodes
  /remember TEXT      remember TEXT, whatever it looks like
  /incognito          from here on nothing is written: what you say is known until you leave
  /stats              how much is remembered, and where
  /save [FILE]        say whether all is on disk, or write a copy of the memory to FILE
  /quit, /exit        leave, as Ctrl-D does; Ctrl-C stops an answer
  quit, exit and help need no slash where they stand alone
"""


def note(text):
    """A dim line on stderr, plain where that is not a terminal or $NO_COLOR is set."""
    dim = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    text = printable(" ".join(text.split()), sys.stderr)
    print(f"\x1b[2m{text}\x1b[0m" if dim else text, file=sys.stderr, flush=True)


def complain(error):
    print("error: " + printable(" ".join(str(error).split()), sys.stderr), file=sys.stderr, flush=True)


def where(episode):
    """FILE:LINE, or what is known of it; None where nothing is."""
    return episode.source if None in (episode.source, episode.line) else f"{episode.source}:{episode.line}"


def as_line(episode, most=200):
    """An episode for the eye: when it was lived (local time), its words, where they are from."""
    time = [when.isoformat(" ", "minutes")] if (when := lived(episode.time, None)) else []
    source = [] if episode.source is None else [f"[{shortened(where(episode), most)}]"]
    return "  ".join([*time, shortened(episode.text, most), *source])


def as_dict(episode):
    """An episode for a program."""
    score = {} if episode.score is None else {"score": round(episode.score, 4)}
    return {"episode": episode.id, "text": episode.text, **score, "source": where(episode), "time": iso(episode.time)}


class Chat:
    """
    memory: a LiveMemory, None-reading if no_memory. read(prompt): the next line, EOFError at the end; its errors are
    UnicodeDecodeError. voice: a nanochat.talk.Voice, which makes sentences of answers; None: they stay as they are.
    """

    def __init__(self, memory, read, as_json=False, routing=False, no_memory=False, talk=True, voice=None):
        self.memory, self.read, self.as_json, self.voice = memory, read, as_json, voice
        self.routing, self.no_memory, self.talk = routing, no_memory, talk
        self.code = 0   # 2 once a line was refused, 1 once something failed

    @property
    def prompt(self):
        return "no memory> " if self.no_memory else "incognito> " if self.memory.read_only else "> "

    def run(self):
        """
        Line by line to the end. Through a pipe (talk=False) every line is a question or a command, and the exit code
        tells whether one was refused.
        """
        asked = False
        while True:
            try:
                line = self.read(self.prompt).strip()
                asked = asked or bool(line)
                if self.talk and line.casefold() in WORDS:
                    line = "/" + line.casefold()
                if line.startswith("/"):
                    if self.command(line):
                        break
                elif line:
                    self.tell(line) if self.talk and not is_question(line) else self.ask({"question": line})
            except KeyboardInterrupt:
                if not self.talk:
                    raise
                print(file=sys.stderr)
            except EOFError:
                if self.talk:
                    print(file=sys.stderr)
                elif not asked:
                    note("nothing was asked: stdin is empty")
                break
            except UnicodeDecodeError as error:
                self.refuse(getattr(error, "where", "") + "not UTF-8 text", 2)
            except UserError as error:
                self.refuse(error, error.code)
            except BrokenPipeError:
                raise
            except OSError as error:
                self.refuse(f"{error.strerror or error}"
                            + (f": {error.filename}" if error.filename is not None else ""), 1)
        return 0 if self.talk else self.code

    def refuse(self, error, code):
        self.code = max(self.code, code)
        complain(error)

    def answer_all(self, items):
        """
        Answers items (see `ask`) as JSON; one that is refused, a question too long, is said, and the others are
        answered. The exit code.
        """
        for number, item in enumerate(items, 1):
            try:
                self.print_json(item)
            except UserError as error:
                self.refuse(f"question {number}: {error}", error.code)
        return self.code

    # -- asking and telling --------------------------------------------------------------------------------------------

    def ask(self, item):
        """item: {"question": …} and whatever else is to be handed on in JSON."""
        self.print_json(item) if self.as_json else self.print_text(item["question"])

    def print_text(self, question):
        shown, answer = [], None
        small_talk = self.voice is not None and self.voice.is_small_talk(question)

        def show(piece):
            shown.append(piece)
            print(printable(piece, sys.stdout), end="", flush=True)

        try:
            if small_talk:
                for piece in self.voice.reply(question):
                    show(piece)
            elif self.voice:
                answer = self.memory.ask(question)
                show(self.voice.sentence(question, answer.text))
            else:
                answer = self.memory.ask(question, show)
        finally:
            if shown or answer:
                print(flush=True)
        if small_talk:
            note("small talk: the memory was not asked")
            return
        for episode in answer.episodes[:SHOWN]:
            note(f"from {episode.score:.2f}  {as_line(episode)}")
        if not answer.episodes:
            note("from nothing")
        elif answer.composed:
            note("put together: it does not stand there as it is")
        if answer.confidence < UNSURE:
            note(f"not sure: confidence {answer.confidence:.2f}")

    def print_json(self, item):
        answer = self.memory.ask(item["question"])
        out = {"question": item["question"], "answer": answer.text, "confidence": float(f"{answer.confidence:.4g}"),
               "composed": answer.composed, "episodes": [as_dict(episode) for episode in answer.episodes],
               "seconds": round(answer.seconds, 4)}
        if self.voice:
            out["sentence"] = self.voice.sentence(item["question"], answer.text)
        if self.routing:
            out["routing"] = [[id, float(f"{share:.4g}")] for id, share in self.memory.routing(item["question"])]
        rest = {name: value for name, value in item.items() if name not in out}
        if "answer" in item:
            rest.setdefault("expected", item["answer"])
        print(json.dumps({**out, **rest}), flush=True)

    def tell(self, text):
        if self.no_memory:
            note("not remembered: there is no memory (--no-memory); to ask, end the line in '?'")
            return
        id = self.memory.say(text, SOURCE, int(time.time()))
        note(f"remembered as episode {id}" + (", until you leave" if self.memory.read_only else "")
             + (f"; if it was a question, end it in '?', and /forget {id}" if may_be_question(text) else ""))

    # -- commands ------------------------------------------------------------------------------------------------------

    def command(self, line):
        """Carries out a /command; True where it was the last."""
        name, _, rest = line[1:].partition(" ")
        commands = {"help": self.help, "memory": self.list, "show": self.show, "forget": self.forget,
                    "remember": self.remember, "incognito": self.incognito,
                    "stats": self.stats, "save": self.save}
        rest = rest.strip()
        if name in ("quit", "exit"):
            return True
        if name not in commands:
            raise UserError(f"unknown command /{shortened(name, 40)}: /help lists them", code=2)
        if rest and name in ("help", "incognito", "stats"):
            raise UserError(f"/{name} stands alone", code=2)
        commands[name](rest)
        return False

    def help(self, _):
        print(HELP, end="", file=sys.stderr, flush=True)

    def print_episode(self, episode):
        print(json.dumps(as_dict(episode)) if self.as_json
              else printable(f"{episode.id:6d}  {as_line(episode)}", sys.stdout), flush=True)

    def holding(self, text):
        return [e for e in self.memory.episodes() if text.casefold() in e.text.casefold()]

    def numbered(self, text, command):
        if not text.isdecimal() or len(text) > 18:
            raise UserError(f"{command} needs the number of an episode (/memory lists them)", code=2)
        try:
            return self.memory[int(text)]
        except IndexError as error:
            raise UserError(str(error)) from error

    def list(self, text):
        found = self.holding(text) if text else [self.memory[id]
                                                 for id in range(max(1, len(self.memory) - LISTED + 1), len(self.memory)
                                                                 + 1)]
        for episode in found[-LISTED:]:
            self.print_episode(episode)
        there = len(found) if text else len(self.memory)
        note(f"{there:,} episodes" + (" hold this text" if text else "")
             + (f", the last {LISTED} are shown" if there > LISTED else ""))

    def show(self, text):
        episode = self.numbered(text, "/show")
        if self.as_json:
            self.print_episode(episode)
            return
        about = (f"episode: {episode.id}\nsource: {shortened(where(episode) or 'not known', 200)}\ntime: "
                 f"{iso(episode.time) or 'not known'}")
        print(printable(f"{about}\n\n{episode.text}", sys.stdout), flush=True)

    def forget(self, text):
        if self.no_memory:
            raise UserError("there is no memory to forget from (--no-memory)")
        self.memory.hold()   # the numbers shown are the numbers forgotten
        text = text or self.read("forget which? ID or text: ").strip()
        if not text.isdecimal():
            found = self.holding(text) if text else []
            for episode in found[-LISTED:] if len(found) > 1 else ():
                self.print_episode(episode)
            if not found:
                raise UserError("nothing to forget: "
                                + (f"no episode holds '{shortened(text, 40)}'" if text else "no episode was named"))
            text = (str(found[0].id) if len(found) == 1
                    else self.read(f"{len(found):,} episodes hold it; which ID? ").strip())
        episode = self.numbered(text, "/forget")
        self.print_episode(episode)
        if self.read("forget it? [y/N] ").strip().lower() not in ("y", "yes"):
            note("nothing was changed")
            return
        self.memory.forget(episode.id)
        note(f"forgotten; {len(self.memory):,} episodes left"
             + (", those after it move up" if episode.id <= len(self.memory) else ""))

    def remember(self, text):
        if not text:
            raise UserError("/remember needs a text", code=2)
        if self.no_memory:
            raise UserError("there is no memory to remember it in (--no-memory)")
        self.tell(text)

    def incognito(self, _):
        self.memory.read_only = True
        note("from here on nothing is written; what you say is known until you leave")

    def stats(self, _):
        out = self.memory.stats()
        if self.as_json:
            print(json.dumps(out), flush=True)
            return
        for name, value in out.items():
            print(f"{name}: {f'{value:,}' if isinstance(value, int) else printable(str(value or 'none'), sys.stdout)}",
                  flush=True)

    def save(self, path):
        if self.no_memory:
            raise UserError("there is no memory to save (--no-memory)")
        if path and self.memory.read_only:
            raise UserError("incognito: nothing is written")
        self.memory.save(path or None)
        note(f"{len(self.memory):,} episodes are on disk in {path or self.memory.path}")
