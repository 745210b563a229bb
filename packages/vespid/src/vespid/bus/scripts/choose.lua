-- now, then for each request: request, org, signature, quota, pin, wait, priority, since, excluded (comma-separated),
-- ask (or '')
-- -> { { verdict, ... } of each }, handed
local function choose(request, org, sig, new_quota, pin, wait, priority, since, avoided, ask)
  if not meta[1] then return { 'COLD' } end
  local raised = false
  if not SHARED and new_quota >= 0 and new_quota ~= quota then
    raised = new_quota > quota and quota >= 0
    quota = new_quota
    call('HSET', KEYS[1], 'quota', text(new_quota))
  end
  local excluded = {}
  for x in string.gmatch(avoided, '[^,]+') do excluded[#excluded + 1] = x end
  local function shunned(x)
    for _, name in ipairs(excluded) do
      if name == x then return true end
    end
    return false
  end

  local function answer(verdict, x, h, at)
    for i = 1, #handed, 7 do
      -- our own turn came: it is the answer, not something to hand on
      if handed[i] == request then
        for _ = 1, 7 do table.remove(handed, i) end
        break
      end
    end
    return { verdict, x, h and h[1] or '0', h and h[2] or '', at }
  end

  local record = find(request)
  local moved = nil
  if record and record[STATE] ~= 'w' then
    if record[STATE] == 'c' or not shunned(record[X]) then
      return answer(record[STATE] == 'c' and 'CONFIRMED' or 'HELD', record[X], executor(record[X]), record[AT])
    end
  end
  if sig ~= ANYWHERE and string.sub(call('HGET', P .. 'sigs', sig) or '', 1, 1) ~= 'K' then
    return { 'UNKNOWN' }
  end
  local was_full = raised
  if record and record[STATE] == 'w' then
    dequeue(request, record)
  elseif record then
    was_full = was_full or over_quota()
    moved = record[X]
    give_back(request, record)
  end

  local queue = pin == '' and sig or sig .. '@' .. pin
  -- whom it avoids already it goes on avoiding
  record = { 'w', '', org, queue, priority, since == '0' and text(now) or since, wait, '0',
    record and record[EXCLUDED] or '' }
  for _, x in ipairs(excluded) do avoid(record, x) end
  if ask ~= '' then call('HSET', P .. 'ask', request, ask) end

  -- Who has room for us, or why nobody.
  local function pick()
    if over_quota() then return nil, nil, 'QUOTA' end
    if sig == ANYWHERE then return '*', executor('*') end
    if call('SCARD', P .. 'xs') == 0 then return nil, nil, 'NONE_CONNECTED' end
    if pin ~= '' then
      local h = executor(pin)
      if not h then return nil, nil, 'NONE_CONNECTED' end
      if call('SISMEMBER', P .. 'm:' .. sig, pin) == 0 then return nil, nil, 'NONE_MATCHES' end
      if h[4] ~= '1' then return nil, nil, 'NOT_TAKING' end
      if avoids(record, pin) or not has_room(pin, h) then return nil, nil, 'ALL_FULL' end
      return pin, h
    end
    for _, x in ipairs(call('ZRANGE', P .. 'room:' .. sig, 0, record[EXCLUDED] == '' and 0 or 15)) do
      if not avoids(record, x) then return x, executor(x) end
    end
    return nil, nil, call('EXISTS', P .. 'm:' .. sig) == 1 and 'ALL_FULL' or 'NONE_MATCHES'
  end

  local line = call('ZSCORE', P .. 'ws', queue)
  if not line and not was_full then
    -- nobody is before us
    local x, h, reason = pick()
    if x then
      take(request, record, x, h)
      if moved then serve_executor(moved, 8) end
      return answer('RESERVED', x, h, record[AT])
    end
    if wait == '1' then enqueue(request, record) else forget_ask(request, record) end
    if moved then serve_executor(moved, 8) end
    return answer(wait == '1' and 'WAITING' or 'REFUSED', reason)
  end

  if wait == '1' then enqueue(request, record) end
  if was_full then serve_all(16) end
  local more = serve_queue(queue, 16)
  if moved then serve_executor(moved, 8) end
  if wait == '1' then
    record = find(request)
    if record[STATE] == 'u' then return answer('RESERVED', record[X], executor(record[X]), record[AT]) end
    local _, _, reason = pick()
    return answer('WAITING', reason or 'BEHIND')
  end
  local x, h, reason = nil, nil, 'BEHIND'
  if not more then x, h, reason = pick() end
  if x then
    take(request, record, x, h)
    return answer('RESERVED', x, h, record[AT])
  end
  forget_ask(request, record)
  if reason == 'ALL_FULL' and call('ZSCORE', P .. 'ws', queue) then reason = 'BEHIND' end
  return answer('REFUSED', reason)
end

if meta[1] then expire(8) end
local verdicts = {}
for i = 2, #ARGV, 10 do
  verdicts[#verdicts + 1] = choose(ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]), ARGV[i + 4], ARGV[i + 5],
    ARGV[i + 6], ARGV[i + 7], ARGV[i + 8], ARGV[i + 9])
end
return { verdicts, handed }
