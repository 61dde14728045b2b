// Follows the outcomes of an attack job and sends them to the survival service's FitOutcomes, from the protos alone.
//
//   node follow.mjs ATTACK_ADDRESS SURVIVAL_ADDRESS ATTACK_JOB_ID
//
// Prints one line of JSON: what was read, and the fits. Everything else goes to stderr.

import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const PROTOS = fileURLToPath(new URL("../../protos", import.meta.url));
const TRIES = 10;

function load(file, path) {
  const definition = protoLoader.loadSync(file, {
    includeDirs: [PROTOS], // google/protobuf/*.proto come with protobufjs
    keepCase: true,
    longs: String,
    enums: String,
    defaults: true,
    oneofs: true,
  });
  return path.split(".").reduce((scope, name) => scope[name], grpc.loadPackageDefinition(definition));
}

/** Yields every batch of outcomes once; a stream that breaks is taken up again after its last message. */
async function* outcomes(attack, attackJobId) {
  let token = "";
  for (let tries = 0; tries < TRIES; tries++) {
    const stream = attack.StreamOutcomes({ attack_job_id: attackJobId, resume_token: token });
    try {
      for await (const response of stream) {
        token = response.resume_token;
        tries = 0;
        if (response.event === "outcome_batch") yield response.outcome_batch;
        if (response.event === "end") return;
      }
    } catch (error) {
      if (error.code !== grpc.status.UNAVAILABLE) throw error;
      console.error(`the stream broke (${error.details}); taking it up again`);
    } finally {
      stream.cancel();
    }
    await sleep(500);
  }
  throw new Error(`the attack service did not come back after ${TRIES} tries`);
}

/** Starts a fit: `send` gives it rows and waits while its buffer is full, `finish` returns the answer. */
function fitting(survival, options) {
  let call;
  const answer = new Promise((resolve, reject) => {
    call = survival.FitOutcomes((error, response) => (error ? reject(error) : resolve(response)));
  });
  answer.catch(() => {}); // reported by `finish`
  call.write({ options });
  return {
    async send(batch) {
      if (!call.write({ outcome_batch: batch })) {
        await Promise.race([new Promise((resume) => call.once("drain", resume)), answer]);
      }
    },
    finish() {
      call.end();
      return answer;
    },
    /** Changes nothing once it has finished; before that, an open call would keep the process alive. */
    abandon() {
      call.cancel();
    },
  };
}

const [attackAddress, survivalAddress, attackJobId] = process.argv.slice(2);
if (!attackJobId) {
  console.error("usage: node follow.mjs ATTACK_ADDRESS SURVIVAL_ADDRESS ATTACK_JOB_ID");
  process.exit(2);
}

const AttackService = load("afr/attack/v1/attack_service.proto", "afr.attack.v1.AttackService");
const SurvivalService = load("afr/survival/v1/survival_service.proto", "afr.survival.v1.SurvivalService");
// Calls to loopback must not go through a proxy that the environment names for the outside.
const settings = { "grpc.enable_http_proxy": 0 };
const attack = new AttackService(attackAddress, grpc.credentials.createInsecure(), settings);
const survival = new SurvivalService(survivalAddress, grpc.credentials.createInsecure(), settings);

const fit = fitting(survival, { clock: "CLOCK_QUERIES" });
try {
  const verdicts = {};
  for await (const batch of outcomes(attack, attackJobId)) {
    for (const verdict of batch.verdict) verdicts[verdict] = (verdicts[verdict] ?? 0) + 1;
    await fit.send(batch);
  }
  const { fits, ...counts } = await fit.finish();
  const shown = fits.map(({ distribution, status, aic, median }) => ({ distribution, status, aic, median: median?.value }));
  delete counts.kaplan_meier;
  console.log(JSON.stringify({ verdicts, ...counts, fits: shown }));
} catch (error) {
  console.error(`error: ${error.details || error.message}`);
  process.exitCode = 1;
} finally {
  fit.abandon();
  attack.close();
  survival.close();
}
