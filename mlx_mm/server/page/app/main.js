// Where it begins.
import { html, render } from "../vendor/preact-htm.js";
import { App } from "./app.js";
import { load } from "./language.js";

await load();
render(html`<${App} />`, document.getElementById("app"));
