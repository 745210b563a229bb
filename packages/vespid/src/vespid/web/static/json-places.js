// Where in a JSON text each value stands, by its dotted path: so that what is wrong can be shown at its place.

// Gives {value, places: Map(path → [from, to])}. Throws {at} (an offset) for what is not JSON.
export function read(text) {
  const places = new Map();
  let at = 0;
  const fail = () => {
    throw { at };
  };
  const space = () => {
    while (" \t\n\r".includes(text[at]) && at < text.length) at += 1;
  };
  const take = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (!found) fail();
    at += found[0].length;
    return found[0];
  };
  const string = () => {
    const from = at;
    const raw = take(STRING);
    try {
      return JSON.parse(raw);
    } catch {
      at = from;
      return fail();
    }
  };
  const items = (close, item) => {
    at += 1;
    space();
    if (text[at] === close) {
      at += 1;
      return;
    }
    for (;;) {
      item();
      space();
      if (text[at] === close) break;
      if (text[at] !== ",") fail();
      at += 1;
      space();
    }
    at += 1;
  };
  const value = (path) => {
    space();
    const from = at;
    let result;
    if (text[at] === "{") {
      result = {};
      items("}", () => {
        const key = string();
        space();
        if (text[at] !== ":") fail();
        at += 1;
        Object.defineProperty(result, key, { value: value(path ? `${path}.${key}` : key), enumerable: true, configurable: true, writable: true });
      });
    } else if (text[at] === "[") {
      result = [];
      items("]", () => result.push(value(`${path}.${result.length}`)));
    } else if (text[at] === '"') {
      result = string();
    } else {
      result = JSON.parse(take(SCALAR));
    }
    places.set(path, [from, at]);
    return result;
  };
  const result = value("");
  space();
  if (at < text.length) fail();
  return { value: result, places };
}

const STRING = /"(?:[^"\\\u0000-\u001f]|\\.)*"/y;
const SCALAR = /true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;

// The line and column of an offset, both from 1.
export function lineOf(text, at) {
  const before = text.slice(0, at).split("\n");
  return { line: before.length, column: before.at(-1).length + 1 };
}
