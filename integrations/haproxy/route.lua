-- Asks the gateway which model shall answer. Whatever goes wrong, the large one does.
--
-- Over a socket of its own: HAProxy's core.httpclient tries a gateway that is down four times, a second
-- apart, while the user waits.
local GATEWAY = "127.0.0.1:8080"
local KEY = "change-me"
local TIMEOUT_S = 0.25
local LINES_MAX = 64
local NAMES = {"x-query-route", "x-query-label", "x-query-task", "x-query-confidence", "x-query-reason"}

local function now_s()
    local now = core.now()
    return now.sec + now.usec / 1e6
end

-- The decision's headers, or nil. Closes nothing: whoever made the socket does.
local function exchange(socket, request)
    local give_up_at = now_s() + TIMEOUT_S
    socket:settimeout(TIMEOUT_S)
    if socket:connect(GATEWAY) ~= 1 or not socket:send(request) then
        return nil
    end
    local status = socket:receive("*l")
    if status == nil or not status:find("^HTTP/1%.[01] 200") then
        return nil
    end
    local answer = {}
    for _ = 1, LINES_MAX do
        local line = socket:receive("*l")
        if line == nil or now_s() > give_up_at then
            return nil
        end
        line = line:gsub("\r$", "")
        if line == "" then
            return answer
        end
        local name, value = line:match("^([^:]+):%s*(.-)%s*$")
        if name ~= nil then
            answer[name:lower()] = value
        end
    end
    return nil
end

core.register_action("query_route", {"http-req"}, function(txn)
    local body = txn.f:req_body()
    if body == nil or body == "" then
        return
    end
    local lines = {
        "POST /v1/route HTTP/1.1",
        "host: query-gateway",
        "connection: close",
        "x-query-gateway-key: " .. KEY,
        "content-length: " .. #body,
    }
    for _, name in ipairs({"content-type", "content-encoding", "x-request-id", "traceparent"}) do
        local value = txn.sf:req_fhdr(name)
        if value ~= "" then
            table.insert(lines, name .. ": " .. value)
        end
    end
    local socket = core.tcp()
    local asked, answer = pcall(exchange, socket, table.concat(lines, "\r\n") .. "\r\n\r\n" .. body)
    pcall(socket.close, socket)
    if not asked or answer == nil then
        return
    end
    for _, name in ipairs(NAMES) do
        if answer[name] ~= nil then
            txn.http:req_set_header(name, answer[name])
        end
    end
end, 0)
