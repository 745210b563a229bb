-- What all capacity scripts share: one partition, {o:<organization>} or {m:<shard>}. KEYS[1] is "<partition>:meta";
-- every other key is derived from it and carries the same hash tag, so a script never leaves its slot.
--   meta        hash: gen (absent: cold), next (the gen that is being prepared, or has begun), quota,
--               seq (grows with every use), sigv (changes with every new signature)
--   req         hash: request -> record, see `fields`; a request is in exactly one state
--   fl          set: requests that count against the organization's quota
--   unc         sorted set: unconfirmed reservations by expiry
--   xs, x:<id>  set of connected executors; hash c(onnection epoch) e(dge) cap r(outable) s(ignatures) l(ast used) v caps
--   f:<id>      set: requests on that executor
--   sigs        hash: signature -> "L" or "K" (being learnt, known) .. requirement
--   m:<sig>     set: connected executors that match
--   room:<sig>  sorted set: those with room; load in thousandths, then least recently used
--   ws          sorted set: queues somebody waits in, in the order they were last looked at
--   w:<queue>   sorted set: organizations in it, least recently served first; w:<queue>:<org> its waiters by place
--   ask         hash: request -> the ask of a managed request that is not confirmed: what its other half needs
-- A queue is "<sig>", or "<sig>@<executor>" for who accepts only that one.
-- In an organization's partition managed requests take quota only: there executor "*" matches "*managed", without limit.
local call = redis.call
local P = string.sub(KEYS[1], 1, -5)
local SHARED = string.sub(KEYS[1], 2, 2) == 'm'
local now = tonumber(ARGV[1])
if now == 0 then
  local t = call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local UNCONFIRMED_MS, EXCLUDED_MS, EPOCH_KEPT_MS = 5000, 5000, 3600000
local LOAD_UNIT = 4398046511104 -- 2^42: above any time in ms and any seq, and a thousand of it still exact in a double
local ANYWHERE = '*managed'
-- positions in a record
local STATE, X, ORG, QUEUE, PRIORITY, SINCE, WAIT, AT, EXCLUDED = 1, 2, 3, 4, 5, 6, 7, 8, 9
local handed = {}

local meta = call('HMGET', KEYS[1], 'gen', 'quota')
local quota = tonumber(meta[2] or '-1')

local function next_seq() return call('HINCRBY', KEYS[1], 'seq', 1) end

local function text(number) return string.format('%.0f', number) end

local function find(request)
  local packed = call('HGET', P .. 'req', request)
  if not packed then return nil end
  return { string.match(packed, '^([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|(.*)$') }
end

local function put(request, record) call('HSET', P .. 'req', request, table.concat(record, '|')) end

local function over_quota()
  return not SHARED and quota >= 0 and call('SCARD', P .. 'fl') >= quota
end

-- c, e, cap, r, s, l of a connected executor, or nil
local function executor(x)
  if x == '*' then return { '0', '', '', '1', ANYWHERE, '0' } end
  local h = call('HMGET', P .. 'x:' .. x, 'c', 'e', 'cap', 'r', 's', 'l')
  if not h[2] then return nil end
  return h
end

local function has_room(x, h)
  if x == '*' then return true end
  return h[4] == '1' and call('SCARD', P .. 'f:' .. x) < tonumber(h[3])
end

-- Put an executor where its load belongs in every signature's room, or take it out.
local function place(x, h)
  if x == '*' then return end
  local n, cap = call('SCARD', P .. 'f:' .. x), tonumber(h[3])
  if h[4] == '1' and n < cap then
    local score = math.floor(n * 1000 / cap) * LOAD_UNIT + tonumber(h[6] or '0')
    for sig in string.gmatch(h[5], '%S+') do call('ZADD', P .. 'room:' .. sig, score, x) end
  else
    for sig in string.gmatch(h[5], '%S+') do call('ZREM', P .. 'room:' .. sig, x) end
  end
end

local function position(record)
  return (1000 - tonumber(record[PRIORITY])) * LOAD_UNIT + tonumber(record[SINCE])
end

local function enqueue(request, record)
  record[STATE], record[X] = 'w', ''
  put(request, record)
  local q = P .. 'w:' .. record[QUEUE]
  call('ZADD', q .. ':' .. record[ORG], position(record), request)
  local seq = next_seq()
  call('ZADD', q, 'NX', seq, record[ORG])
  call('ZADD', P .. 'ws', 'NX', seq, record[QUEUE])
end

local function dequeue(request, record)
  local q = P .. 'w:' .. record[QUEUE]
  call('HDEL', P .. 'req', request)
  call('ZREM', q .. ':' .. record[ORG], request)
  if call('EXISTS', q .. ':' .. record[ORG]) == 0 then
    call('ZREM', q, record[ORG])
    if call('EXISTS', q) == 0 then call('ZREM', P .. 'ws', record[QUEUE]) end
  end
end

local function take(request, record, x, h)
  local seq = next_seq()
  record[STATE], record[X], record[AT] = 'u', x, text(now)
  put(request, record)
  call('SADD', P .. 'f:' .. x, request)
  call('ZADD', P .. 'unc', now + UNCONFIRMED_MS, request)
  if not SHARED then call('SADD', P .. 'fl', request) end
  if x ~= '*' then
    h[6] = text(seq)
    call('HSET', P .. 'x:' .. x, 'l', h[6])
    place(x, h)
  end
  return seq
end

-- Take a reservation back. The slot is not handed on yet.
local function give_back(request, record)
  call('HDEL', P .. 'req', request)
  call('ZREM', P .. 'unc', request)
  call('SREM', P .. 'f:' .. record[X], request)
  if not SHARED then call('SREM', P .. 'fl', request) end
  local h = executor(record[X])
  if h then place(record[X], h) end
end

local function forget_ask(request, record)
  if SHARED or record[QUEUE] == ANYWHERE then call('HDEL', P .. 'ask', request) end
end

local function avoids(record, x)
  if record[EXCLUDED] == '' then return false end
  local _, last = string.find(',' .. record[EXCLUDED], ',' .. x .. '=', 1, true)
  return last ~= nil and tonumber(string.match(record[EXCLUDED], '^%d+', last)) > now
end

local function avoid(record, x)
  local kept = {}
  for name, until_ms in string.gmatch(record[EXCLUDED], '([^=,]+)=(%d+)') do
    if name ~= x and tonumber(until_ms) > now then kept[#kept + 1] = name .. '=' .. until_ms end
  end
  kept[#kept + 1] = x .. '=' .. text(now + EXCLUDED_MS)
  record[EXCLUDED] = table.concat(kept, ',')
end

-- The waiter of a queue whose turn it is on x: the organization least recently served, then its oldest.
local function head(queue, x)
  local q = P .. 'w:' .. queue
  local ring = call('ZRANGE', q, 0, 15, 'WITHSCORES')
  for i = 1, #ring, 2 do
    for _, request in ipairs(call('ZRANGE', q .. ':' .. ring[i], 0, 15)) do
      local record = find(request)
      if not avoids(record, x) then
        return { request, record, SHARED and tonumber(ring[i + 1]) or 0, position(record) }
      end
    end
  end
  return nil
end

local function earlier(a, b)
  if a[3] ~= b[3] then return a[3] < b[3] end
  if a[4] ~= b[4] then return a[4] < b[4] end
  return a[1] < b[1]
end

local function hand(waiter, x, h)
  local request, record = waiter[1], waiter[2]
  dequeue(request, record)
  local seq = take(request, record, x, h)
  call('ZADD', P .. 'w:' .. record[QUEUE], 'XX', seq, record[ORG])
  local ask = (SHARED or x == '*') and call('HGET', P .. 'ask', request) or ''
  for _, value in ipairs({ request, record[ORG], x, h[1], h[2], record[AT], ask }) do
    handed[#handed + 1] = value
  end
end

-- Give what room x has to who waits for it.
local function serve_executor(x, limit)
  for _ = 1, limit do
    if call('EXISTS', P .. 'ws') == 0 or over_quota() then return end
    local h = executor(x)
    if not h or not has_room(x, h) then return end
    local best = nil
    for sig in string.gmatch(h[5], '%S+') do
      for _, queue in ipairs({ sig, sig .. '@' .. x }) do
        local waiter = call('ZSCORE', P .. 'ws', queue) and head(queue, x)
        if waiter and (not best or earlier(waiter, best)) then best = waiter end
      end
    end
    if not best then return end
    hand(best, x, h)
  end
end

-- The waiter of a queue that can be served now, and by whom.
local function servable(queue)
  local sig, pin = string.match(queue, '^([^@]+)@(.+)$')
  if pin then
    local h = executor(pin)
    local match = h and string.find(' ' .. h[5] .. ' ', ' ' .. sig .. ' ', 1, true)
    local waiter = match and has_room(pin, h) and head(queue, pin)
    if waiter then return waiter, pin, h end
    return nil
  end
  if queue == ANYWHERE then
    local waiter = head(queue, '*')
    if waiter then return waiter, '*', executor('*') end
    return nil
  end
  for _, x in ipairs(call('ZRANGE', P .. 'room:' .. queue, 0, 15)) do
    local waiter = head(queue, x)
    if waiter then return waiter, x, executor(x) end
  end
  return nil
end

-- Serve one queue. True: the limit ended it, there may be more to serve.
local function serve_queue(queue, limit)
  for _ = 1, limit do
    if over_quota() then return false end
    local waiter, x, h = servable(queue)
    if not waiter then return false end
    hand(waiter, x, h)
  end
  return true
end

-- Serve whoever can be served, oldest first, looking at 64 queues at most; those move to the end of the line.
local function serve_all(limit)
  for _ = 1, limit do
    if over_quota() then return end
    local best, best_x, best_h = nil, nil, nil
    local queues = call('ZRANGE', P .. 'ws', 0, 63)
    for _, queue in ipairs(queues) do
      local waiter, x, h = servable(queue)
      if waiter and (not best or earlier(waiter, best)) then best, best_x, best_h = waiter, x, h end
    end
    if #queues == 64 then
      local seq = next_seq()
      for _, queue in ipairs(queues) do call('ZADD', P .. 'ws', 'XX', seq, queue) end
    end
    if not best then return end
    hand(best, best_x, best_h)
  end
end

-- Run `change`, which returns the executors it made room on, and hand on what became free.
local function handing_on(change, limit)
  local was_full = over_quota()
  local freed = change()
  if call('EXISTS', P .. 'ws') == 0 then return end
  if was_full then return serve_all(limit) end
  for _, x in ipairs(freed) do serve_executor(x, limit) end
end

-- Reservations that nobody confirmed: who wants to wait queues again, elsewhere for a while.
local function expire(limit)
  local late = call('ZRANGEBYSCORE', P .. 'unc', '-inf', now, 'LIMIT', 0, limit)
  if #late == 0 then return end
  handing_on(function()
    local freed = {}
    for _, request in ipairs(late) do
      local record = find(request)
      local x = record[X]
      give_back(request, record)
      freed[#freed + 1] = x
      if record[WAIT] == '1' then
        if x ~= '*' then avoid(record, x) end
        enqueue(request, record)
      else
        forget_ask(request, record)
      end
    end
    return freed
  end, limit)
end

-- Make a request the confirmed one of x, whatever it was. Returns the executors that became free.
local function settle(request, org, x)
  local record = find(request)
  local freed = {}
  if record and record[STATE] ~= 'w' and record[X] == x then
    if record[STATE] == 'u' then
      record[STATE], record[AT] = 'c', text(now)
      put(request, record)
      call('ZREM', P .. 'unc', request)
      forget_ask(request, record)
    end
    return freed
  end
  if record then forget_ask(request, record) end
  if record and record[STATE] == 'w' then
    dequeue(request, record)
  elseif record then
    give_back(request, record)
    freed[1] = record[X]
  end
  put(request, { 'c', x, org, '', '0', '0', '0', text(now), '' })
  call('SADD', P .. 'f:' .. x, request)
  if not SHARED then call('SADD', P .. 'fl', request) end
  local h = executor(x)
  if h then place(x, h) end
  return freed
end
