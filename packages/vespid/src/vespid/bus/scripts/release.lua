-- now, then for each request: request, only this executor ('' any), only while unconfirmed ('1')
-- -> { 'DONE' | 'GONE' | 'KEPT' of each }, handed
local function release(request, only, only_unconfirmed)
  if not meta[1] then return 'GONE' end
  local record = find(request)
  if not record then return 'GONE' end
  if (only ~= '' and record[X] ~= only) or (only_unconfirmed == '1' and record[STATE] == 'c') then return 'KEPT' end
  forget_ask(request, record)
  if record[STATE] == 'w' then
    dequeue(request, record)
  else
    handing_on(function()
      give_back(request, record)
      return { record[X] }
    end, 8)
  end
  return 'DONE'
end

local words = {}
for i = 2, #ARGV, 3 do words[#words + 1] = release(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
if meta[1] then expire(8) end
return { words, handed }
