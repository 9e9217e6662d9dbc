// Text that somebody else wrote, such as names of files and answers of models: shown as what it is, never obeyed.
import { html } from "../vendor/preact-htm.js";

// Controls, and what turns the direction of writing: a name must not look like another one.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\ufeff]/g;

const sign = (character) => {
  const code = character.codePointAt(0);
  if (code < 32) return String.fromCodePoint(0x2400 + code);
  return code === 127 ? "\u2421" : `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
};

/** With signs in the place of what cannot be seen; lines and tabs stay. */
export const visible = (text) => String(text ?? "").replace(HIDDEN, sign);

/** The same in one line. */
export const inOneLine = (text) => visible(text).replace(/[\t\n\u2028\u2029]/g, (one) => (one === "\t" ? "\u2409" : "\u240a"));

/** A name between other words, which keeps its own direction to itself. */
export const Name = ({ text, ...rest }) => html`<bdi ...${rest}>${inOneLine(text)}</bdi>`;
