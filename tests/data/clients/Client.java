// Asks for a page twice, the second time with the session of the first, and prints the version and the page each time.
// Arguments: the authority's file, the port, the version.

import java.io.FileInputStream;
import java.net.Socket;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

class Client {
    public static void main(String[] arguments) throws Exception {
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (FileInputStream file = new FileInputStream(arguments[0])) {
            trusted.setCertificateEntry("a", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(trusted);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        int port = Integer.parseInt(arguments[1]);
        for (int time = 0; time < 2; time++) {
            Socket plain = new Socket("127.0.0.1", port);
            try (SSLSocket client = (SSLSocket) context.getSocketFactory().createSocket(plain, "a.test", port, true)) {
                SSLParameters parameters = client.getSSLParameters();
                parameters.setEndpointIdentificationAlgorithm("HTTPS");
                parameters.setProtocols(new String[] {"TLSv" + arguments[2]});
                client.setSSLParameters(parameters);
                client.getOutputStream().write("GET / HTTP/1.0\r\n\r\n".getBytes());
                String answer = new String(client.getInputStream().readAllBytes());
                System.out.println(client.getSession().getProtocol() + " " + answer.split("\r\n\r\n")[1]);
            }
        }
    }
}
