"use strict";
// All text that comes from the service is set as text, never as HTML: names of classes are strangers' words.
const $ = (id) => document.getElementById(id);
let chosen = null;
let turn = 0;  // of the photo that is shown: an answer that comes late, for another one, is dropped

// kind: "busy" while something is awaited, "error" for what went wrong, else "".
function say(text, kind = "") {
  $("status").textContent = text;
  $("status").className = kind;
}

// Show a file in an image; the one before it is let go.
function put(id, file) {
  URL.revokeObjectURL($(id).src);
  $(id).src = URL.createObjectURL(file);
}

// The rows that an answer is shown as: [name, figure, share or null].
function rows(answer) {
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const shares = (pairs) => pairs.filter(([, share]) => share > 0).sort((a, b) => b[1] - a[1]).slice(0, 8)
    .map(([name, share]) => [name, percent(share), share]);
  if (answer.top) return answer.top.map((guess) => [guess.name, percent(guess.probability), guess.probability]);
  if (answer.probabilities) return shares(Object.entries(answer.probabilities));
  if (answer.shares) return shares(Object.entries(answer.shares));
  if (answer.values) return Object.entries(answer.values).map(([name, value]) => [name, Number(value).toPrecision(4), null]);
  return Object.entries(answer).map(([name, value]) => [name, JSON.stringify(value).slice(0, 60), null]);
}

function show(answer) {
  $("answer").replaceChildren(...rows(answer).map(([name, figure, share]) => {
    const item = document.createElement("li");
    for (const [kind, text] of [["name", name], ["figure", figure]]) {
      const part = document.createElement("span");
      part.className = kind;
      part.textContent = text;
      item.append(part);
    }
    if (share !== null) {
      const bar = document.createElement("progress");
      bar.max = 1;
      bar.value = share;
      item.append(bar);
    }
    return item;
  }));
}

async function ask(verb) {
  const reply = await fetch(`${verb}/${encodeURIComponent($("model").value)}`, {
    method: "POST", body: chosen, headers: {"Content-Type": chosen.type || "application/octet-stream"},
  });
  if (!reply.ok) {
    const told = await reply.json().catch(() => ({}));
    throw new Error(told.error || `the service answers ${reply.status}`);
  }
  return reply;
}

async function answer() {
  if (!chosen) return;
  const mine = ++turn;
  $("reasons").hidden = true;
  $("answer").replaceChildren();
  $("why").disabled = true;
  say("Looking …", "busy");
  try {
    const told = await (await ask("predict")).json();
    if (mine !== turn) return;
    show(told);
    say("");
    $("why").disabled = false;
  } catch (error) {
    if (mine === turn) say(error.message, "error");
  }
}

async function explain() {
  const mine = turn;
  $("why").disabled = true;
  say("Drawing what speaks for it …", "busy");
  try {
    const picture = await (await ask("explain")).blob();
    if (mine !== turn) return;
    put("picture", picture);
    $("reasons").hidden = false;
    say("");
    await $("picture").decode();
    $("reasons").scrollLeft = $("reasons").scrollWidth;  // where the screen is narrow, what speaks for it comes first
    $("reasons").scrollIntoView({block: "nearest"});
  } catch (error) {
    if (mine === turn) say(error.message, "error");
  }
  if (mine === turn) $("why").disabled = false;
}

function take(file) {
  if (!file) return;
  chosen = file;
  put("photo", file);
  $("photo").hidden = false;
  $("hint").hidden = true;
  $("drop").classList.add("full");
  answer();
}

for (const id of ["file", "camera"]) {
  $(id).addEventListener("change", (event) => {
    take(event.target.files[0]);
    event.target.value = "";  // the same file may be chosen again
  });
}
$("why").addEventListener("click", explain);
$("model").addEventListener("change", answer);
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
fetch("models").then((reply) => reply.json()).then((models) => {
  for (const {name} of models) $("model").append(new Option(name, name));
  $("model").disabled = models.length < 2;
  $("choice").hidden = false;
}).catch(() => say("The service cannot be reached.", "error"));
