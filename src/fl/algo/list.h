/* list.h - the federated algorithms, in the order help shows them. */
X(fedavg)
X(fedprox)
X(fedadam)
X(fedyogi)
X(fedadagrad)
