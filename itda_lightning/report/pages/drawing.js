// Elements, numbers, prompts and histograms for the scripts of all pages.
"use strict";

const drawing = (() => {
  // The parser knows SVG's namespace, so its address is not needed here.
  const template = document.createElement("template");
  template.innerHTML = "<svg></svg>";
  const svgNamespace = template.content.firstChild.namespaceURI;

  // Text from data only ever becomes text nodes and attribute values, never markup.
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  const byId = (id) => document.getElementById(id);

  function draw(tag, attributes, ...children) {
    const element = document.createElementNS(svgNamespace, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  const minus = (text) => text.replace("-", "−");
  const whole = (value) => minus(value.toLocaleString("en-US"));
  const short = (value) => minus(String(Number(value.toPrecision(3))));
  const share = (value) => {
    if (value === 0) return "never";
    return value < 0.995 ? `${(100 * value).toPrecision(2)}%` : "100%";
  };
  const percent = (value) => (value < 0.995 && value !== 0 ? `${(100 * value).toPrecision(2)}%` : `${Math.round(100 * value)}%`);
  const coefficient = (value) => make("data", { value: String(value) },
    Math.abs(value) >= 100 ? whole(Math.round(value)) : minus(value.toPrecision(3)));

  function marked(prompt) {
    if (prompt === null) return make("span", { class: "prompt" }, "prompt unknown");
    const [before, token, after] = prompt;
    return make("span", { class: "prompt", dir: "auto" }, ...quiet(before), make("mark", {}, token), ...quiet(after));
  }

  // Special tokens, as in excerpt.py, are shown in small grey letters.
  const SPECIAL = /(<\|[^|<>\s]{1,40}\|>|<(?:s|\/s|bos|eos|pad|unk)>|\[(?:CLS|SEP|PAD|UNK)\])/;
  const quiet = (text) => text.split(SPECIAL).map((piece, i) => (i % 2 ? make("span", { class: "special" }, piece) : piece));

  // The last characters of a text, without a part of a special token.
  function ending(text, length) {
    const pieces = text.split(SPECIAL);
    const rest = pieces.pop();
    if (rest.length >= length || !pieces.length) return rest.slice(-length);
    const special = pieces.pop();
    return rest.length + special.length <= length ? special + rest : rest;
  }

  const heading = (text, detail) => make("h4", {}, text, " ", make("span", {}, detail));

  function histogram({ low, width, counts }, room) {
    // As many units as pixels, so that text has the same size on any screen.
    const all = Math.max(200, room);
    const [left, right, top, bottom] = [6, all - 6, 20, 114];
    // Zero is on the axis, so that the sign of a coefficient shows.
    const start = Math.min(low, 0);
    const end = Math.max(low + counts.length * width, 0);
    const highest = Math.max(...counts);
    const across = (value) => left + ((value - start) / (end - start)) * (right - left);
    const up = (count) => bottom - (count / highest) * (bottom - top);
    const bars = counts.map((count, i) => [low + i * width, count]).filter(([, count]) => count).map(([from, count]) =>
      draw("rect", {
        class: from < 0 ? "negative" : "positive",
        x: across(from), y: up(count), height: bottom - up(count),
        width: Math.max(1, across(from + width) - across(from) - 1),
      }, draw("title", {}, `${whole(count)} from ${short(from)} to ${short(from + width)}`)));
    const ticks = steps(start, end, Math.min(6, Math.floor(all / 55))).flatMap((value) => [
      draw("path", { class: "axis", d: `M${across(value)} ${bottom}v4` }),
      draw("text", { class: "tick", x: across(value), y: bottom + 17, "text-anchor": "middle" }, short(value)),
    ]);
    const summary = `Coefficients from ${short(low)} to ${short(low + counts.length * width)}; the fullest bin holds ${whole(highest)}.`;
    return draw("svg", { viewBox: `0 0 ${all} 138`, role: "img", "aria-label": summary },
      draw("text", { class: "tick", x: left, y: 10 }, `${whole(highest)} tokens in the fullest bin`),
      ...bars, draw("path", { class: "axis", d: `M${left} ${bottom}H${right}` }), ...ticks);
  }

  // Multiples of 1, 2 or 5 times a power of ten inside an interval, in about this many steps.
  function steps(start, end, about) {
    const raw = (end - start) / about;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((factor) => raw <= factor * power) * power;
    const values = [];
    for (let i = Math.ceil(start / step); i * step <= end; i += 1) values.push(i * step);
    return values;
  }

  const examples = (contexts) => make("table", {}, make("tbody", {}, ...contexts.map(([value, prompt]) =>
    make("tr", {}, make("td", { class: "number" }, coefficient(value)), make("td", {}, marked(prompt))))));

  // The text of a script element that inline.py packed: base64 of gzip, opened by the browser itself.
  async function unpack(id) {
    const binary = atob(byId(id).textContent);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i += 1) bytes[i] = binary.charCodeAt(i);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  return { make, byId, whole, short, share, percent, coefficient, marked, quiet, ending, heading, histogram, examples, unpack };
})();
