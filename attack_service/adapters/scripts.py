"""What changes a job in Redis, at once or not at all: a Lua script a change.

Every change of a state is one script, so that a server, a worker and another worker that comes back from the dead
cannot undo one another's. A shard's `stage` is `begun` while an attempt is at work on it, `left` when one gave it back
or was canceled, and `done`. A shard that has begun without anybody's lease was lost.

What an attempt changes is fenced: its scripts compare its number with the newest and change nothing for one that was
overtaken.
"""

from __future__ import annotations

from attack_service.jobs import State

_STATES = "".join(f"local {state.name} = '{state.value}'\n" for state in State)

# An entry in `changes` wakes the readers.
_NOTIFY = """
local function notify(changes) redis.call('XADD', changes, 'MAXLEN', 1, '*', 'c', '1') end
"""

_WHOLE = (
    _STATES
    + _NOTIFY
    + """
-- KEYS: record, open, changes, warnings, then meta and lease of every shard.
local function held(except)
  for i = 5, #KEYS, 2 do
    if i ~= except and redis.call('EXISTS', KEYS[i + 1]) == 1 then return true end
  end
  return false
end
local function lost()
  for i = 5, #KEYS, 2 do
    if redis.call('HGET', KEYS[i], 'stage') == 'begun' and redis.call('EXISTS', KEYS[i + 1]) == 0 then return true end
  end
  return false
end
local function done()
  for i = 5, #KEYS, 2 do
    if redis.call('HGET', KEYS[i], 'stage') ~= 'done' then return false end
  end
  return true
end
local function finish(job_id, moment, state, message)
  redis.call('HSET', KEYS[1], 'state', state, 'end_time', moment, 'failure_message', message)
  redis.call('SREM', KEYS[2], job_id)
end
local function cancel(job_id, moment, warning)
  if lost() then redis.call('ZADD', KEYS[4], moment, warning) end
  finish(job_id, moment, CANCELED, '')
end
"""
)

CREATE = (
    _NOTIFY
    + """
-- KEYS: record, index, open, number, changes, [request].  ARGV: job id, then fields and values of the record.
if KEYS[6] then
  local known = redis.call('GET', KEYS[6])
  if known then return known end
  redis.call('SET', KEYS[6], ARGV[1])
end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[4]), ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
notify(KEYS[5])
return ARGV[1]
"""
)

CANCEL = (
    _WHOLE
    + """
-- ARGV: job id, now, and the warning if nobody can record the samples in flight.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 0 end
if state ~= QUEUED and state ~= RUNNING then return 1 end
if state == RUNNING and held() then
  redis.call('HSET', KEYS[1], 'cancel', '1')
else
  -- Nobody is at work on it: it ends now, and whoever comes back from the dead is an attempt too old.
  for i = 5, #KEYS, 2 do redis.call('HINCRBY', KEYS[i], 'attempt', 1) end
  cancel(ARGV[1], ARGV[2], ARGV[3])
end
notify(KEYS[3])
return 1
"""
)

DELETE = (
    _STATES
    + """
-- KEYS: record, index, open, then every other key of the job.  ARGV: job id.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 'missing' end
if state == QUEUED or state == RUNNING then return 'open' end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('DEL', KEYS[1], unpack(KEYS, 4))
return 'deleted'
"""
)

BEGIN = (
    _WHOLE
    + """
-- ARGV: job id, now, shard, owner, dead owner or '', lease ms, attempt limit, failure, and the warning of CANCEL.
local state = redis.call('HGET', KEYS[1], 'state')
local me = 5 + 2 * tonumber(ARGV[3])
local meta, lease = KEYS[me], KEYS[me + 1]
if state ~= QUEUED and state ~= RUNNING then return {'ended', ''} end
if redis.call('HGET', meta, 'stage') == 'done' then return {'ended', ''} end
local holder = redis.call('GET', lease)
if holder and holder ~= ARGV[4] and holder ~= ARGV[5] then return {'held', holder} end
redis.call('DEL', lease)
if redis.call('HEXISTS', KEYS[1], 'cancel') == 1 then
  -- The last of those that are still at work ends the job.
  if not held() then
    cancel(ARGV[1], ARGV[2], ARGV[9])
    notify(KEYS[3])
  end
  return {'ended', ''}
end
if me > 5 and redis.call('HEXISTS', KEYS[1], 'model_record') == 0 then return {'unprepared', ''} end
if tonumber(redis.call('HGET', meta, 'lost') or '0') >= tonumber(ARGV[7]) then
  finish(ARGV[1], ARGV[2], FAILED, ARGV[8])
  notify(KEYS[3])
  return {'ended', ''}
end
local attempt = redis.call('HINCRBY', meta, 'attempt', 1)
-- Counted as lost until it says otherwise: the one that is lost cannot.
redis.call('HINCRBY', meta, 'lost', 1)
redis.call('HSET', meta, 'stage', 'begun')
redis.call('HSETNX', KEYS[1], 'start_time', ARGV[2])
redis.call('HSET', KEYS[1], 'state', RUNNING)
if redis.call('HSETNX', KEYS[1], 'attempt_count', 1) == 0 and attempt > 1 then
  redis.call('HINCRBY', KEYS[1], 'attempt_count', 1)
end
redis.call('SET', lease, ARGV[4], 'PX', ARGV[6])
notify(KEYS[3])
return {'begun', tostring(attempt)}
"""
)

_FENCE = """
-- KEYS[1]: record.
local ended = redis.call('HEXISTS', KEYS[1], 'end_time') == 1
local function fence(meta, attempt)
  if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
  local newest = tonumber(redis.call('HGET', meta, 'attempt') or '0')
  if newest > attempt then return 'fenced' end
  -- A Redis that lost its last second may have forgotten that this attempt began.
  if newest < attempt and not ended then
    redis.call('HSET', meta, 'attempt', attempt, 'stage', 'begun')
    redis.call('HSET', KEYS[1], 'state', RUNNING)
    if redis.call('HSETNX', KEYS[1], 'attempt_count', 1) == 0 and attempt > 1 then
      redis.call('HINCRBY', KEYS[1], 'attempt_count', attempt - math.max(newest, 1))
    end
  end
  return nil
end
"""

APPEND = (
    _STATES
    + _FENCE
    + """
-- KEYS: record, meta, outcomes.
-- ARGV: attempt, sequence, id, payload, samples in it, then the tally after it.
local refusal = fence(KEYS[2], tonumber(ARGV[1]))
if refusal then return refusal end
if ended then return 'ended' end
local following = tonumber(redis.call('HGET', KEYS[2], 'sequence') or '0')
local sequence = tonumber(ARGV[2])
-- The same append again, because its answer was lost.
local append = ARGV[1] .. ':' .. ARGV[3]
if following == sequence + 1 and redis.call('HGET', KEYS[2], 'last_append') == append then return 'ok' end
if following ~= sequence then return tostring(following) end
redis.call('XADD', KEYS[3], ARGV[3], 'b', ARGV[4], 's', ARGV[2])
redis.call('HSET', KEYS[2], 'sequence', sequence + 1, 'last_append', append, 'failed_count', ARGV[6],
  'survived_count', ARGV[7], 'misclassified_count', ARGV[8], 'checksum', ARGV[9])
-- A shard that gets on is no poison, however many workers it costs.
if ARGV[5] ~= '0' then redis.call('HSET', KEYS[2], 'lost', 1) end
return 'ok'
"""
)

SET = (
    _STATES
    + _NOTIFY
    + _FENCE
    + """
-- KEYS: record, meta, changes, progress, warnings, timing violations.
-- ARGV: attempt, now, progress, a warning, a timing violation, then fields and values of the record. What is empty
-- changes nothing.
local refusal = fence(KEYS[2], tonumber(ARGV[1]))
if refusal then return refusal end
if ended then return 'ended' end
if ARGV[3] ~= '' then redis.call('SET', KEYS[4], ARGV[3]) end
if ARGV[4] ~= '' then redis.call('ZADD', KEYS[5], 'NX', ARGV[2], ARGV[4]) end
if ARGV[5] ~= '' then redis.call('ZADD', KEYS[6], 'NX', ARGV[2], ARGV[5]) end
if #ARGV > 5 then redis.call('HSET', KEYS[1], unpack(ARGV, 6)) end
notify(KEYS[3])
return 'ok'
"""
)

LEAVE = (
    _WHOLE
    + _FENCE
    + """
-- ARGV: attempt, job id, now, shard, how it ends (QUEUED: it goes back), failure, the batches that must be in the log
-- or '', whether a preparation must be there, and the warning of CANCEL.
local me = 5 + 2 * tonumber(ARGV[4])
local meta = KEYS[me]
local refusal = fence(meta, tonumber(ARGV[1]))
if refusal then return refusal end
if ended then return 'ok' end
local following = redis.call('HGET', meta, 'sequence') or '0'
if ARGV[7] ~= '' and ARGV[7] ~= following then return following end
if ARGV[8] == '1' and redis.call('HEXISTS', KEYS[1], 'model_record') == 0 then return 'unprepared' end
if redis.call('DEL', KEYS[me + 1]) == 1 then redis.call('HINCRBY', meta, 'lost', -1) end
local state = ARGV[5]
redis.call('HSET', meta, 'stage', state == SUCCEEDED and 'done' or 'left')
if state == CANCELED then redis.call('HSET', KEYS[1], 'cancel', '1') end
if state == FAILED then
  finish(ARGV[2], ARGV[3], FAILED, ARGV[6])
elseif done() then
  finish(ARGV[2], ARGV[3], SUCCEEDED, '')
elseif not held() then
  if redis.call('HEXISTS', KEYS[1], 'cancel') == 1 then
    cancel(ARGV[2], ARGV[3], ARGV[9])
  elseif state == QUEUED then
    redis.call('HSET', KEYS[1], 'state', QUEUED)
  end
end
notify(KEYS[3])
return 'ok'
"""
)

RENEW = (
    _STATES
    + """
-- KEYS: record, meta, lease.  ARGV: attempt, owner, lease ms.
-- Not once the attempt has left: the next one would wait for a lease that nobody holds.
if redis.call('HGET', KEYS[1], 'state') ~= RUNNING then return 0 end
local shard = redis.call('HMGET', KEYS[2], 'stage', 'attempt')
if shard[1] ~= 'begun' or shard[2] ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
return 1
"""
)
