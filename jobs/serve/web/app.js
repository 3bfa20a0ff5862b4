// Entry of the bundle. A page says what it needs by `data-component="NAME"`; each NAME is a module in `components`.
import htmx from "htmx.org";
import { cell } from "./cell.js";
import { job } from "./job.js";
import { listen } from "./live.js";
import { population } from "./population.js";
import { rest } from "./rest.js";
import { search } from "./search.js";
import { cellMap } from "./map.js";
import { localTimes } from "./times.js";
import { upload } from "./upload.js";

const components = { cell, cellMap, job, population, rest, search, upload };

function mount(root) {
  localTimes(root);
  for (const element of root.querySelectorAll("[data-component]")) {
    const start = components[element.dataset.component];
    if (start && !element.mounted) {
      element.mounted = true;
      Promise.resolve(start(element)).catch((error) => {
        element.textContent = `This picture cannot be drawn: ${error.message}`;
        element.classList.add("note");
      });
    }
  }
}

mount(document);
document.addEventListener("change", (event) => event.target.matches("[data-submit]") && event.target.form.requestSubmit());
document.addEventListener("htmx:after:swap", () => mount(document));
listen(htmx);
