// The languages of the page, and numbers, dates and sizes as they are written in them.
const KNOWN = ["en", "de", "fr", "es", "zh", "ja", "ar"];
const STORED = "mlx_mm.language";

let words = {};
export let language = "en";

/** The one that was chosen, or else the first one of the browser's that there is. */
const wanted = () => {
  const chosen = localStorage.getItem(STORED);
  const all = [chosen, ...navigator.languages].filter(Boolean).map((tag) => tag.toLowerCase().split("-")[0]);
  return all.find((tag) => KNOWN.includes(tag)) ?? "en";
};

export const choose = (name) => {
  localStorage.setItem(STORED, name);
  location.reload();
};

export const languages = () => KNOWN.map((tag) => [tag, new Intl.DisplayNames([tag], { type: "language" }).of(tag)]);

/** Before anything is shown. */
export const load = async () => {
  language = wanted();
  words = await (await fetch(`/page/i18n/${language}.json`)).json();
  document.documentElement.lang = language;
  document.documentElement.dir = language === "ar" ? "rtl" : "ltr";
};

/** A sentence by its name; {parts} of it are filled in. */
export const t = (name, parts = {}) =>
  (words[name] ?? name).replace(/\{(\w+)\}/g, (_, part) => parts[part] ?? "");

export const isRightToLeft = () => document.documentElement.dir === "rtl";

const cached = new Map();
const format = (kind, options) => {
  const key = `${kind}${JSON.stringify(options)}`;
  if (!cached.has(key)) cached.set(key, new Intl[kind](language, options));
  return cached.get(key);
};

export const number = (value, options = {}) => format("NumberFormat", options).format(value);

// Moments come as the camera's wall clock, without a zone: they are shown as they are.
const UTC = { timeZone: "UTC" };
const asDate = (moment) => new Date(typeof moment === "number" ? moment * 1000 : `${moment.slice(0, 19)}Z`);
export const date = (moment) => format("DateTimeFormat", { dateStyle: "long", timeStyle: "short", ...UTC }).format(asDate(moment));
export const day = (moment) => format("DateTimeFormat", { dateStyle: "medium", ...UTC }).format(asDate(moment));
export const month = (moment) => format("DateTimeFormat", { month: "short", year: "numeric", ...UTC }).format(asDate(moment));

export const bytes = (size) => {
  const power = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.max(size, 1)) / 3)));
  const unit = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"][power];
  const value = size / 1000 ** power;
  return number(value, { style: "unit", unit, maximumFractionDigits: value < 10 && power ? 1 : 0 });
};

/** Minutes and seconds. */
export const clock = (seconds) => {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
};
