// A terminal's output as text with classes: colours and weight (SGR), carriage returns, line by line, bounded.
// All other escape sequences are dropped. Text is only ever set as text.

const LINES_MAX = 2000;
const LINE_CHARS_MAX = 4000;
const BASIC = [[0, 0, 0], [205, 49, 49], [13, 160, 80], [190, 150, 20], [36, 114, 200], [188, 63, 188], [17, 168, 205], [200, 200, 200]];
// CSI … final | OSC … BEL or ST | any other: characters in between (`ESC ( B`, as `tput sgr0` says it) and a final one
const ESCAPE = /\x1b(?:\[([0-9;:?<=>]*)[ -\/]*([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -\/]*[0-Z\\^-~])/y;
// What may become one of these with the next piece.
const UNFINISHED = /\x1b(?:\[[0-9;:?<=>]*[ -\/]*|\][^\x07\x1b]{0,4096}\x1b?|[ -\/]{0,8})$/;

export class Terminal {
  // `onCut(characters)`: so many have been taken away at the beginning, in all.
  constructor(element, onCut) {
    this.element = element;
    this.onCut = onCut;
    this.cut = 0;
    this.rest = "";
    this.style = {};
    this.returned = false;
    this.stream = "stdout";
    this.newLine();
  }

  // `stream` colours a line that has no colour of its own: stdout, stderr, note.
  write(text, stream = "stdout") {
    if (stream !== this.stream) {
      this.rest = "";
      this.stream = stream;
      if (this.column > 0) this.newLine();
    }
    text = this.rest + text;
    this.rest = UNFINISHED.exec(text)?.[0] ?? "";
    if (this.rest) text = text.slice(0, -this.rest.length);
    let plain = "";
    const flush = () => {
      if (plain) this.append(plain);
      plain = "";
    };
    for (let at = 0; at < text.length; ) {
      const char = text[at];
      if (char === "\x1b") {
        flush();
        ESCAPE.lastIndex = at;
        const found = ESCAPE.exec(text);
        if (found?.[2] === "m") this.sgr(found[1]);
        if (found?.[2] === "K" && found[1] === "2") this.clearLine();
        at += found ? found[0].length : 1;
        continue;
      }
      if (char === "\n") {
        flush();
        this.returned = false;
        this.newLine();
      } else if (char === "\r") {
        flush();
        this.returned = true;
      } else if (char === "\t" || char >= " ") {
        // What follows a lone carriage return overwrites the line: progress bars.
        if (this.returned) {
          this.clearLine();
          this.returned = false;
        }
        plain += char;
      }
      at += 1;
    }
    flush();
    this.bound();
  }

  note(text) {
    this.write(`${text}\n`, "note");
    this.stream = "stdout";
  }

  newLine() {
    this.line = document.createElement("div");
    this.line.className = `line line-${this.stream}`;
    this.column = 0;
    this.element.append(this.line);
  }

  clearLine() {
    this.line.replaceChildren();
    this.column = 0;
  }

  append(text) {
    for (let from = 0; from < text.length; ) {
      if (this.column >= LINE_CHARS_MAX) this.newLine();
      const piece = text.slice(from, from + LINE_CHARS_MAX - this.column);
      const classes = this.classes();
      const last = this.line.lastChild;
      if (last && last.className === classes) {
        last.textContent += piece;
      } else {
        const span = document.createElement("span");
        span.className = classes;
        span.textContent = piece;
        this.line.append(span);
      }
      this.column += piece.length;
      from += piece.length;
    }
  }

  bound() {
    const lines = this.element.children;
    if (lines.length <= LINES_MAX) return;
    while (lines.length > LINES_MAX) {
      this.cut += lines[0].textContent.length + 1;
      lines[0].remove();
    }
    this.onCut?.(this.cut);
  }

  classes() {
    const names = [];
    const { fg, bg, ...marks } = this.style;
    if (fg !== undefined) names.push(`fg-${fg}`);
    if (bg !== undefined) names.push(`bg-${bg}`);
    for (const mark of Object.keys(marks)) names.push(`ansi-${mark}`);
    return names.join(" ");
  }

  sgr(text) {
    const codes = text.split(/[;:]/).map((code) => Number(code || 0));
    for (let at = 0; at < codes.length; at += 1) {
      const code = codes[at];
      if (code === 0) this.style = {};
      else if (code === 1) this.style.bold = true;
      else if (code === 2) this.style.faint = true;
      else if (code === 3) this.style.italic = true;
      else if (code === 4) this.style.underline = true;
      else if (code === 7) this.style.inverse = true;
      else if (code === 9) this.style.strike = true;
      else if (code === 22) { delete this.style.bold; delete this.style.faint; }
      else if (code === 23) delete this.style.italic;
      else if (code === 24) delete this.style.underline;
      else if (code === 27) delete this.style.inverse;
      else if (code === 29) delete this.style.strike;
      else if (code >= 30 && code <= 37) this.style.fg = code - 30;
      else if (code >= 90 && code <= 97) this.style.fg = code - 82;
      else if (code >= 40 && code <= 47) this.style.bg = code - 40;
      else if (code >= 100 && code <= 107) this.style.bg = code - 92;
      else if (code === 39) delete this.style.fg;
      else if (code === 49) delete this.style.bg;
      else if (code === 38 || code === 48) {
        const long = codes[at + 1] === 2;
        const colour = long ? nearest(codes.slice(at + 2, at + 5)) : indexed(codes[at + 2]);
        if (colour !== undefined) this.style[code === 38 ? "fg" : "bg"] = colour;
        at += long ? 4 : 2;
      }
    }
  }
}

// Of 256 colours: the 16 are themselves, the others the nearest of these; the sheet of styles has no more.
function indexed(index) {
  if (!(index >= 0 && index <= 255)) return undefined;
  if (index < 16) return index;
  if (index >= 232) return nearest(Array(3).fill(8 + (index - 232) * 10));
  const steps = [Math.floor((index - 16) / 36), Math.floor((index - 16) / 6) % 6, (index - 16) % 6];
  return nearest(steps.map((step) => (step ? 55 + step * 40 : 0)));
}

function nearest(rgb) {
  if (rgb.length < 3) return undefined;
  const distance = (basic) => basic.reduce((sum, part, at) => sum + (part - rgb[at]) ** 2, 0);
  const best = BASIC.indexOf(BASIC.toSorted((a, b) => distance(a) - distance(b))[0]);
  return best === 0 || best === 7 || Math.max(...rgb) <= 215 ? best : best + 8;
}
