/** Take a picture with the camera. */

import { byId } from "./dom.js";

/**
 * Prepare the buttons and the dialog of the camera. `take(file)` is called with the picture, and
 * `refuse(line)` with an error.
 *
 * Browsers allow the camera only on pages of the same machine or over https. On other pages, a
 * phone opens its own camera app for the file input instead.
 */
export function watchCamera(take, refuse) {
  const [dialog, video] = [byId("camera"), byId("camera-view")];
  let stream = null;
  const open = async () => {
    if (!navigator.mediaDevices) return byId("camera-file").click();
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      const denied = error.name === "NotAllowedError";
      return refuse(denied ? "You have not allowed the camera." : "No camera is available.");
    }
    video.srcObject = stream;
    dialog.showModal();
  };
  for (const button of document.querySelectorAll("[data-shoot]")) button.addEventListener("click", open);
  byId("camera-file").addEventListener("change", ({ target }) => {
    if (target.files.length) take(target.files[0]);
    target.value = "";
  });
  byId("camera-shoot").addEventListener("click", async () => {
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await canvas.convertToBlob({ type: "image/png" });
    dialog.close();
    take(new File([blob], "camera.png", { type: "image/png" }));
  });
  byId("camera-cancel").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    // Release the camera as soon as it is not needed, so that its light goes out.
    stream?.getTracks().forEach((track) => track.stop());
    video.srcObject = stream = null;
  });
}
