// One node of an aedes cluster over Redis, for the tests: `node aedes_node.mjs CONFIG.json`.
// The file names who may connect, and the topic filters that each may write and read, as bus/access/acl.py gives them.
import { timingSafeEqual } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { createServer } from 'node:net'
import { pathToFileURL } from 'node:url'

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const from = createRequire(`${config.modules}/`)
const load = async (name) => await import(pathToFileURL(from.resolve(name)))
const { Aedes } = await load('aedes')
const { default: persistence } = await load('aedes-persistence-redis')
const { default: emitter } = await load('mqemitter-redis')

// Whether every topic that `wanted` matches is matched by `allowed` (as bus.access.acl.covers).
function covers (allowed, wanted) {
  if (wanted[0].startsWith('$') && (allowed[0] === '+' || allowed[0] === '#')) return false
  for (let at = 0; at < allowed.length; at++) {
    if (allowed[at] === '#') return true
    if (at >= wanted.length) return false
    if (allowed[at] !== wanted[at] && !(allowed[at] === '+' && wanted[at] !== '#')) return false
  }
  return allowed.length === wanted.length
}

function may (user, access, topic) {
  const rights = config.users[user]
  return rights !== undefined && rights[access].some((filter) => covers(filter.split('/'), topic.split('/')))
}

// Whether a `+` in the place of the realm stands for realms in which the user has rights: each message is then
// judged by itself, as mosquitto does.
function someRealms (user, topic) {
  const levels = topic.split('/')
  return levels[2] === '+' && config.realms.some((realm) => may(user, 'read', levels.with(2, realm).join('/')))
}

function right (password, given) {
  const wanted = Buffer.from(password)
  return given !== null && given !== undefined && wanted.length === given.length && timingSafeEqual(wanted, given)
}

const redis = { host: '127.0.0.1', port: config.redis }
const broker = new Aedes({
  id: config.id,
  mq: emitter({ ...redis, concurrency: 10000 }),
  persistence: persistence(redis),
  concurrency: 10000,
  queueLimit: 10000,
  maxClientsIdLength: 256,
  // Wills of a node that died are published by the others after 3 to 7 of these.
  heartbeatInterval: config.heartbeat_ms,
  preConnect (client, packet, done) {
    client.willTopic = packet.will ? packet.will.topic : null
    done(null, true)
  },
  authenticate (client, user, password, done) {
    const known = user !== undefined && Object.hasOwn(config.users, user)
    const good = known && right(config.users[user].password, password)
    // A will is judged at once: when it is published for a node that died, nobody knows any more whose it was.
    const will = good && (client.willTopic === null || may(user, 'write', client.willTopic))
    client.user = user
    done(null, good && will)
  },
  authorizePublish (client, packet, done) {
    const allowed = client === null || may(client.user, 'write', packet.topic)
    done(allowed ? null : new Error(`${client.user} may not write ${packet.topic}`))
  },
  authorizeSubscribe (client, subscription, done) {
    const whole = may(client.user, 'read', subscription.topic)
    const some = !whole && someRealms(client.user, subscription.topic)
    client.judged ||= some
    done(null, whole || some ? subscription : null)
  },
  authorizeForward (client, packet) {
    return !client.judged || may(client.user, 'read', packet.topic) ? packet : null
  }
})
broker.on('clientError', (client, error) => console.log(`client ${client.id}: ${error.message}`))
broker.on('connectionError', (client, error) => console.log(`connection: ${error.message}`))
broker.on('error', (error) => console.log(`broker: ${error.message}`))
await broker.listen()
const server = createServer({ noDelay: true }, broker.handle)
server.listen(config.port, '127.0.0.1', () => console.log(`listening on ${config.port}`))
