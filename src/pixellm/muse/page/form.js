// Form for the texts of a record.

const $ = (id) => document.getElementById(id);
const SLOT = "{seg}";

export const editing = () => !$("form").hidden;

export function openForm({ question, text, targets, edited }) {
  $("edit-question").value = question;
  $("edit-text").value = text;
  $("edit-descriptions").replaceChildren(
    ...targets.map(({ description }, i) => {
      const label = document.createElement("label");
      const input = document.createElement("input");
      input.value = description;
      label.append(`${i + 1}`, input);
      return label;
    }),
  );
  $("restore").hidden = !edited;
  $("edit-text").oninput = () => countSlots(targets.length);
  countSlots(targets.length);
  showFormError("");
  swap(true);
  $("edit-question").focus();
}

export function closeForm() {
  swap(false);
}

function swap(open) {
  $("form").hidden = !open;
  $("reading").hidden = open;
  $("actions").hidden = $("show").disabled = open; // nothing leads away from texts that are not saved
}

// Report at once what saving would refuse.
function countSlots(wanted) {
  const count = $("edit-text").value.split(SLOT).length - 1;
  $("slots").textContent = `${count} of ${wanted} ${SLOT}: one right behind the description of each target`;
  $("slots").classList.toggle("wrong", count !== wanted);
}

export function readForm() {
  const descriptions = [...$("edit-descriptions").querySelectorAll("input")].map((input) => input.value);
  return { question: $("edit-question").value, text: $("edit-text").value, descriptions };
}

export function showFormError(text) {
  $("form-error").textContent = text;
  $("form-error").hidden = !text;
}
