// Asks for a page twice, the second time with the session of the first, and prints the version and the page each time.
// Arguments: the authority's file, the port, the version.

const fs = require('fs');
const tls = require('tls');

const [authority, port, version] = process.argv.slice(2);

function ask(session) {
    return new Promise((resolve, reject) => {
        const client = tls.connect({
            host: '127.0.0.1',
            port,
            servername: 'a.test',
            ca: fs.readFileSync(authority),
            minVersion: `TLSv${version}`,
            maxVersion: `TLSv${version}`,
            session,
        });
        let answer = '';
        let protocol;
        let next;
        client.on('secureConnect', () => {
            protocol = client.getProtocol();
            if (client.isSessionReused() !== (session !== undefined)) reject(new Error('resumed where it was not to be'));
            client.write('GET / HTTP/1.0\r\n\r\n');
        });
        client.on('session', given => { next = given; });
        client.on('data', data => { answer += data; });
        client.on('end', () => console.log(`${protocol} ${answer.split('\r\n\r\n')[1]}`));
        client.on('close', () => resolve(next));
        client.on('error', reject);
    });
}

ask().then(ask).catch(error => { console.error(error); process.exit(1); });
