// A job is made: the text is the job, the form shows it, and each change of either is sent to be checked.
import { element } from "./theme.js";

const TYPING_MS = 350;
const ASK_MS = 700;

async function posted(address, body) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return answered(await fetch(address, options));
}

async function answered(response) {
  const content = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
  if (!response.ok) throw new Error(content.error);
  return content;
}

// What is asked takes a while: its answer is fetched until it is there.
async function asked(address, body) {
  let answer = await posted(address, body);
  while (answer.state === "waiting") {
    await new Promise((done) => setTimeout(done, ASK_MS));
    answer = await answered(await fetch(`/api/job/answers/${answer.id}`));
  }
  if (answer.state === "failed") throw new Error(answer.text);
  return answer.text;
}

export function job(root) {
  const part = (name) => root.querySelector(`[data-part=${name}]`);
  const [text, form, kind, chosen, out, answer, said] = ["text", "form", "kind", "chosen", "out", "answer", "said"].map(part);
  let number = 0;
  let timer = 0;
  let typing = null; // the field whose change is still to be sent
  let sent = Promise.resolve();

  function show(found) {
    if (text.value !== found.job) text.value = found.job;
    part("fault").hidden = !found.fault;
    part("fault").textContent = found.fault;
    part("own-code").hidden = found.own_code.length === 0;
    part("own-code-keys").textContent = found.own_code.join(", ");
    if (found.name) out.placeholder = found.name;
    if (found.kind) kind.value = found.kind;
    if (found.form !== null) showForm(found.form);
    showCommand();
  }

  function showForm(html) {
    const open = [...form.querySelectorAll("details[open]")].map((each) => each.dataset.key);
    const before = form.contains(document.activeElement) ? document.activeElement : null;
    const known = before?.name && { name: before.name, value: before.value, at: before.selectionStart };
    form.innerHTML = html;
    for (const each of form.querySelectorAll("details")) each.open = open.includes(each.dataset.key);
    const again = known && form.elements.namedItem(known.name);
    if (again) {
      again.value = known.value; // as it was typed, also where YAML writes it otherwise
      again.focus();
      if (again.setSelectionRange) again.setSelectionRange(known.at, known.at);
    }
  }

  function showCommand() {
    const name = out.placeholder || "job";
    const quick = part("quick").checked ? " --quick" : "";
    part("command").textContent = `neurofleet run ${name}.yaml --out ${out.value.trim() || name}${quick}`;
  }

  // one after the other: each change is of the text that the one before has made
  function check(change) {
    const mine = ++number;
    sent = sent.then(async () => {
      if (!change && mine !== number) return;
      try {
        const found = await posted("/job/check", { job: text.value, ...(change && { change }) });
        if (change && mine !== number) text.value = found.job;
        if (mine === number) show(found);
      } catch (error) {
        part("fault").hidden = false;
        part("fault").textContent = error.message;
      }
    });
    return sent;
  }

  function later(change) {
    clearTimeout(timer);
    timer = setTimeout(() => {
      typing = null;
      check(change);
    }, TYPING_MS);
  }

  async function working(button, tell, work) {
    button.disabled = true;
    tell.textContent = "…";
    try {
      await sent;
      tell.textContent = (await work()) ?? "";
    } catch (error) {
      tell.textContent = error.message;
    }
    button.disabled = false;
  }

  const wanted = () => ({ job: text.value, quick: part("quick").checked });
  const place = () => ({ ...wanted(), out: out.value.trim(), cpus: Number(part("cpus").value) || null });
  const shown = (what) => {
    answer.hidden = false;
    answer.textContent = what;
  };

  text.addEventListener("input", () => later());
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    if (typing && typing !== event.target.name) flush();
    typing = event.target.name;
    later({ place: JSON.parse(event.target.name), value: event.target.value });
  });
  const flush = () => {
    const field = typing && form.elements.namedItem(typing);
    typing = null;
    if (!field) return;
    clearTimeout(timer);
    check({ place: JSON.parse(field.name), value: field.value });
  };
  form.addEventListener("focusout", flush);
  out.addEventListener("input", showCommand);
  part("quick").addEventListener("change", showCommand);

  let begun = text.value;
  kind.addEventListener("change", () => {
    if (text.value.trim() !== begun.trim() && !window.confirm("Begin a job of another kind, and drop this one?")) {
      check();
      return;
    }
    const [first, learner] = kind.value.split(" ");
    begun = `kind: ${first}\n${learner ? `learner: ${learner}\n` : ""}name: ${learner ?? first}\n`;
    text.value = begun;
    const drafts = part("draft-kind");
    if ([...drafts.options].some((each) => each.value === (learner ?? first))) drafts.value = learner ?? first;
    check();
  });

  root.addEventListener("click", (event) => {
    const { path, add, remove, cancel, cancelSubmitted } = event.target.dataset;
    if (path !== undefined) chosen.value = `${chosen.value}${chosen.value && !chosen.value.endsWith("\n") ? "\n" : ""}${path}\n`;
    if (add) check({ place: JSON.parse(add), add: true });
    if (remove) check({ place: JSON.parse(remove) });
    if (cancel) working(event.target, said, async () => `${(await posted("/api/job/cancel", { run: cancel })).run} is asked to end.`);
    if (cancelSubmitted) working(event.target, said, () => asked("/api/job/cancel-submitted", { id: cancelSubmitted }));
  });

  part("draft").addEventListener("click", (event) =>
    working(event.target, part("draft-said"), async () => {
      part("draft-said").textContent = "The files are looked at …";
      const files = chosen.value.split("\n").map((line) => line.trim()).filter(Boolean);
      text.value = await asked("/api/job/draft", { kind: part("draft-kind").value, files });
      await check();
      return "Drafted. Read what the job file says, and change what is a wrong guess.";
    }),
  );
  part("plan").addEventListener("click", (event) => working(event.target, said, async () => shown(await asked("/api/job/plan", wanted()))));
  part("run").addEventListener("click", (event) =>
    working(event.target, said, async () => `${(await posted("/api/job/run", place())).run} is started; it goes on when this page is closed.`),
  );
  part("submit")?.addEventListener("click", (event) => working(event.target, said, async () => shown(await asked("/api/job/submit", place()))));
  part("ask-cluster")?.addEventListener("click", (event) =>
    working(event.target, said, async () => {
      const jobs = JSON.parse(await asked("/api/job/submitted", {}));
      const row = (each) => {
        const end = element("button", { type: "button", textContent: "Cancel", ariaLabel: `Cancel ${each.id}` });
        end.dataset.cancelSubmitted = each.id;
        const cells = [each.id, each.state, each.out].map((value) => element("td", {}, value));
        return element("tr", {}, ...cells, element("td", {}, ...(each.ended ? [] : [end])));
      };
      const head = element("tr", {}, ...["Job", "State", "Results", "Cancel"].map((name) => element("th", {}, name)));
      const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...jobs.map(row)));
      part("cluster").replaceChildren(jobs.length ? table : element("p", { className: "quiet" }, "The cluster knows no job of neurofleet."));
    }),
  );
  part("save").addEventListener("click", () => {
    const address = URL.createObjectURL(new Blob([text.value], { type: "text/yaml" }));
    element("a", { href: address, download: `${out.placeholder || "job"}.yaml` }).click();
    URL.revokeObjectURL(address);
  });
  showCommand();
}
