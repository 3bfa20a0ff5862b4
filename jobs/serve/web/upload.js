// A file is sent in chunks; after a cut connection the server says how much it has, and the rest follows.
const CHUNK_BYTES = 8 * 2 ** 20;
const TRIES = 8;

export function upload(form) {
  form.addEventListener("submit", async (event) => {
    const file = form.querySelector("input[type=file]").files[0];
    if (!file) return;
    event.preventDefault();
    const button = form.querySelector("button");
    const said = form.querySelector("[role=status]");
    const bar = form.querySelector("progress");
    button.disabled = true;
    bar.hidden = false;
    try {
      const id = await send(file, (received) => {
        bar.value = received / Math.max(file.size, 1);
        said.textContent = `${Math.round(100 * bar.value)} % of ${file.name} is sent.`;
      });
      form.querySelector("input[name=upload]").value = id;
      form.querySelector("input[type=file]").value = "";
      form.submit();
    } catch (error) {
      said.textContent = error.message;
      button.disabled = false;
      bar.hidden = true;
    }
  });
}

async function asked(address, options) {
  const answer = await fetch(address, options);
  const content = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
  if (!answer.ok && answer.status !== 409) throw new Error(content.error);
  return content;
}

async function send(file, tell) {
  const body = JSON.stringify({ name: file.name, size: file.size });
  const { id } = await asked("/api/uploads", { method: "POST", headers: { "Content-Type": "application/json" }, body });
  let received = 0;
  let failures = 0;
  while (received < file.size) {
    const chunk = file.slice(received, received + CHUNK_BYTES);
    try {
      ({ received } = await asked(`/api/uploads/${id}?offset=${received}`, { method: "PUT", body: chunk }));
      failures = 0;
    } catch (error) {
      if (!(error instanceof TypeError) || ++failures > TRIES) throw error; // a TypeError: the network
      await new Promise((done) => setTimeout(done, 1000 * failures));
      ({ received } = await asked(`/api/uploads/${id}`).catch(() => ({ received })));
    }
    tell(received);
  }
  return id;
}
