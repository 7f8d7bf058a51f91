// wampy.js: each client joins, registers a procedure and calls it, `node wampy_client.mjs JSON` with a list of clients,
// one after the other. (It has no way to be told of its own events.) Prints what came of each, as a list in JSON.
import { createRequire } from 'node:module'

const configs = JSON.parse(process.argv[2])
const load = createRequire(`${configs[0].modules}/`)
const inside = `${configs[0].modules}/node_modules/wampy/dist/esm`
const ws = load('ws')
const { Wampy } = await import(`${inside}/wampy.js`)
const cra = await import(`${inside}/auth/wampcra/wampy-cra.js`)
const cryptosign = await import(`${inside}/auth/cryptosign/wampy-cryptosign.js`)
const nacl = load('tweetnacl')

function credentials (config) {
  const { method, secret } = config
  if (method === 'ticket') return { onChallenge: () => secret }
  if (method === 'wampcra') return { onChallenge: cra.sign(secret) }
  if (method !== 'cryptosign') return {}
  const pair = nacl.sign.keyPair.fromSeed(Buffer.from(secret, 'hex'))
  const hex = (bytes) => Buffer.from(bytes).toString('hex')
  return { authextra: { pubkey: hex(pair.publicKey) }, onChallenge: cryptosign.sign(hex(pair.secretKey)) }
}

async function run (config) {
  const { url, realm, topic, authid, method } = config
  const more = method === 'anonymous' ? {} : { authid, authmethods: [method] }
  const client = new Wampy(url, { realm, ws, autoReconnect: false, ...more, ...credentials(config) })
  let who = {}
  try {
    const details = await client.connect()
    who = { authid: details.authid, authrole: details.authrole, authmethod: details.authmethod }
  } catch (error) {
    return { outcome: 'refused', reason: error.errorUri ?? String(error.message) }
  }
  try {
    await client.register(topic, ({ argsList }) => ({ argsList }))
    const { argsList } = await client.call(topic, ['through'])
    return { outcome: argsList[0], ...who }
  } catch (error) {
    return { outcome: 'not allowed', error: error.errorUri ?? String(error.message), ...who }
  } finally {
    await client.disconnect().catch(() => {})
  }
}

async function bounded (config) {
  let timer
  const late = new Promise((resolve) => {
    timer = setTimeout(() => resolve({ outcome: 'nothing' }), config.seconds * 1000)
  })
  const outcome = await Promise.race([run(config), late])
  clearTimeout(timer)
  return outcome
}

const outcomes = []
for (const config of configs) outcomes.push(await bounded(config))
console.log(JSON.stringify(outcomes))
process.exit(0)
