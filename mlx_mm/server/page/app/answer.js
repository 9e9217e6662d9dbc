// An answer with its paragraphs, lists, code and bold words. All of it is text: what looks like HTML is shown as it is.
import { html } from "../vendor/preact-htm.js";
import { visible } from "./text.js";

const inline = (text) =>
  text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).map((part) => {
    if (part.length > 2 && part.startsWith("`")) return html`<code>${part.slice(1, -1)}</code>`;
    if (part.length > 4 && part.startsWith("**")) return html`<b>${part.slice(2, -2)}</b>`;
    return part;
  });

const ITEM = /^\s*(?:[-*•]|\d+[.)])\s+/;

const block = (text) => {
  const lines = text.split("\n");
  const heading = /^#{1,6}\s+/;
  if (lines.length > 0 && lines.every((line) => ITEM.test(line))) {
    const items = lines.map((line) => html`<li dir="auto">${inline(line.replace(ITEM, ""))}</li>`);
    return /^\s*\d/.test(text) ? html`<ol>${items}</ol>` : html`<ul>${items}</ul>`;
  }
  if (lines.length === 1 && heading.test(text)) return html`<p dir="auto"><b>${inline(text.replace(heading, ""))}</b></p>`;
  return html`<p dir="auto">${inline(text)}</p>`;
};

/** A list begins a block of its own also where no empty line is before it. */
const blocks = (text) => {
  const found = [];
  for (const part of text.split(/\n{2,}/)) {
    let lines = [];
    for (const line of part.split("\n")) {
      if (lines.length && ITEM.test(line) !== ITEM.test(lines.at(-1))) {
        found.push(lines.join("\n"));
        lines = [];
      }
      lines.push(line);
    }
    found.push(lines.join("\n"));
  }
  return found.filter((one) => one.trim());
};

export const Answer = ({ text }) =>
  visible(text)
    .split(/^```.*$/m)
    .map((part, n) => (n % 2 ? html`<pre dir="ltr"><code>${part.replace(/^\n|\n$/g, "")}</code></pre>` : blocks(part).map(block)));
