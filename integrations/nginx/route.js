// Asks the gateway which model shall answer. Whatever goes wrong, the large one does.
const NAMES = ['route', 'label', 'task', 'confidence', 'reason'];

async function ask(r) {
    try {
        // Throws where the body was too long for memory; undefined where there is none.
        const body = r.requestText;
        if (body) {
            const answer = await r.subrequest('/query-gateway', {method: 'POST', body: body});
            if (answer.status === 200) {
                NAMES.forEach((name) => {
                    const value = answer.headersOut['x-query-' + name];
                    if (value !== undefined) {
                        r.variables['query_' + name] = value;
                    }
                });
            }
        }
    } catch (e) {
        r.warn(`not asked: ${e.message}`);
    }
    r.internalRedirect(r.variables.query_route === 'fast' ? '@small' : '@large');
}

export default {ask};
